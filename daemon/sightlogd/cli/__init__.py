"""The commands of `sightlogd` beside `run`, one module each: what they are asked, what they say, the exit code."""
