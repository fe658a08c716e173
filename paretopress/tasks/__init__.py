"""Tasks: how outputs are scored, and the losses that students learn by."""
