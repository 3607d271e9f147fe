"""The durable store: the log of events, and tables for readers that are derived from it."""
