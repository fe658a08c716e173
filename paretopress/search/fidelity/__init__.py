"""Fidelity of evaluations: rungs and promotion, repeated latencies and their pooling, the choice of finalists."""
