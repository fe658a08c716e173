"""The search: samplers, seeds, the study, finalists. It knows plans, measurements and a callable `evaluate`, and imports no torch."""
