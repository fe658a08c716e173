"""What is measured of a candidate besides its latency: accuracy, MACs, size, and the cost of each layer."""
