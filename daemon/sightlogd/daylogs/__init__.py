"""Day folders and their logs: events.json and events.log, written behind the acks."""
