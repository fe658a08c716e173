"""Reports for people: the live view of a search, the tables and the plot of its front, and front.json."""
