"""Score trained networks, and find out where they fail."""
