"""Copies of the whole store: making one while the daemon runs, and making a store of one."""
