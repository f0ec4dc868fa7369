"""Measure speed and memory: networks, losses, data."""
