"""The spool: what a producer published and the daemon did not ack yet, in segment files of the producer's own."""
