"""What people evaluate: data sets, model bundles, evaluation specs, analysis."""
