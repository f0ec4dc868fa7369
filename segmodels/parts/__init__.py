"""What at least two papers share; a part knows no paper, and imports torch, numpy, timm and other
parts alone."""
