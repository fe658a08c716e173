"""The loop of a study: trials, finalists, time, early stop."""
