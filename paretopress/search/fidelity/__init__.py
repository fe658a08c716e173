"""Rungs: promotion between them, remeasurement, pooled latencies, finalists."""
