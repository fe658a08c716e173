"""Channel flow: which channels of which layers each element of each tensor of a model belongs to."""
