"""Intake: load the user's model and data from a spec, and check both before anything else happens."""
