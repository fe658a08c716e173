"""Intake: load, check and trace the user's model and data, and compare the traced model with the original."""
