"""Record what a model computes as a torch.fx graph of plain layers and functions."""
