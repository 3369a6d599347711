"""What verbs do with a database as a whole: copy, verify, refill, look at one of a stopped daemon."""
