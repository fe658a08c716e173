"""From a torch module to the ONNX file that ships: export, parity check, quantisation."""
