"""sightlogd: the daemon, the one process that writes a store, and its verbs."""
