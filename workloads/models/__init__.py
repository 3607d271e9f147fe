"""Model bundles: where weights come from, how they become graphs for phones, and the command for it."""
