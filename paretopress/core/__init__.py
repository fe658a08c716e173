"""Values that every part passes around: plans, model graphs, outcomes, Pareto fronts."""
