"""What proposes plans: the guided sampler, its surrogate, initial plans."""
