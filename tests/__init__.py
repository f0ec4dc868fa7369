"""Tests; experiments/results/reference holds the numbers of the authors' code."""
