"""The farm's decisions, pure: no I/O, no clock, no randomness; time and ids arrive in events."""
