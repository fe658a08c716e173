"""What a person sees of a search: the live view while it runs, then the tables and the plot of its front."""
