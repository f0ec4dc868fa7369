"""Encoders that several papers share; each returns its feature maps, finest first."""
