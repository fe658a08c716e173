"""Structured pruning: channels, attention heads, recurrent units, residual branches."""
