"""The stages of one trial, and the process in which it runs."""
