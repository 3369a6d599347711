"""Comparing the day folders with the database, and making a database of day folders."""
