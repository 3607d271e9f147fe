"""A job's report: one HTML file that stands alone."""
