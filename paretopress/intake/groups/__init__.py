"""Which layers must be pruned or quantised together, and what can be removed."""
