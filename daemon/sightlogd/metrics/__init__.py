"""What the daemon counts and measures, and where that is written."""
