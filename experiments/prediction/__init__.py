"""Predict images, videos and cameras."""
