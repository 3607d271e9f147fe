"""Putting the agent on a phone: its runtime, its model bundles, its start, and the tunnel to it."""
