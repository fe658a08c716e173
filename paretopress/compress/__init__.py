"""Compress a torch module by a plan: remove branches, prune, factorise, fine-tune. Knows nothing of ONNX or of the search."""
