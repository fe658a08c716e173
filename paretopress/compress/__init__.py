"""From a plan to a smaller torch module: remove branches, prune, factorise, recover. Knows nothing of ONNX or of the search."""
