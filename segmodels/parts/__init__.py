"""Parts that at least two papers share: losses, resizing, layers, schedules, backbones.

A part knows no paper; it imports only torch, numpy, timm and other parts.
"""
