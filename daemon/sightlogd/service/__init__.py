"""The daemon at work: the loop, what is done between batches, systemd, the control socket."""
