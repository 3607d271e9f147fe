"""Model bundles: where weights come from, how they become graphs that a phone can run, and the command for it."""
