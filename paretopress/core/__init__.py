"""Core values: plans, model graphs, outcomes, Pareto sets, batches of inputs."""
