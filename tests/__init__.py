"""Tests; tests/reference holds the numbers of the authors' code."""
