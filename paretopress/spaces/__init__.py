"""The decision variables of a search, built from what the model has and what the target can run."""
