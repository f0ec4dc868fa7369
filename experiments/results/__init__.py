"""Kept results, the catalogue, and the numbers of the authors' code."""
