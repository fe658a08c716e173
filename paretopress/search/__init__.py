"""The search: candidates and bounds; below it the samplers, the study, its storage and its rungs. It knows plans, outcomes and a callable
`evaluate(plan, rung, number)`, and imports no torch."""
