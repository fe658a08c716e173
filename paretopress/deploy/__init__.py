"""Deployment: the bundle (ONNX file, manifest, self-check, runner) and its verification; imports no torch."""
