"""What is run: the only place where networks and data meet."""
