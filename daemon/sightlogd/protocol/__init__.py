"""The daemon's side of the wire protocol: decode and check, sessions, what one batch takes. No I/O."""
