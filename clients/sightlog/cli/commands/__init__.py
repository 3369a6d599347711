"""The commands of `sightlog`, a module each or for verbs that belong together: options, what is said, the exit code."""
