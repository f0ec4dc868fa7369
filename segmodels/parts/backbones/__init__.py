"""Encoders that papers take from other papers; each returns its feature maps, finest first."""
