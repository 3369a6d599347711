"""What an event leaves in its day's folder."""
