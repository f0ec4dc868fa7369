"""HuggingFace transformers 5.24.0: networks as it computes them, under the names of its files."""
