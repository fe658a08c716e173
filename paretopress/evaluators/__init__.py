"""Evaluators: figures of a candidate beside its latency (accuracy, MACs, size), and the cost of each layer."""
