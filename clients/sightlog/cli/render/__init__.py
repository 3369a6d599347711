"""How records look: for a terminal, as a table, as JSON and CSV."""
