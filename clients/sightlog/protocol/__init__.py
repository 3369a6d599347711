"""The wire protocol, version 1: what a record and a message may hold, and their bytes. No I/O."""
