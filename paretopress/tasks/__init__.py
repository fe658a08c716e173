"""What models are for: how outputs are scored, and what a student learns from its teacher."""
