"""Workers on other hosts, by hand or placed by Ray."""
