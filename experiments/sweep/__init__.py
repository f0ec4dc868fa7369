"""Train many rows and seeds, and put them in one table."""
