"""What runs a model's file: one module a runtime, behind one protocol."""
