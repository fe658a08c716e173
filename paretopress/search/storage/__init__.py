"""Where a study lies, and how many workers share it."""
