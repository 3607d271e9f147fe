"""The HTTP API of a running farm."""
