"""Fused modules rewritten as plain layers, so that they can be pruned and exported."""
