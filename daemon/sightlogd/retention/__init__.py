"""What goes when the storage budget is used up: the policy, what is used, and the removal of days."""
