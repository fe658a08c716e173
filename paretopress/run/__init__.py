"""The life of one run: set-up, driver, tables, artifacts, retention."""
