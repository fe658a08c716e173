"""The probe of a target: what its runtime does fast, and in which formats."""
