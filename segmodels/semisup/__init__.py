"""One semi-supervised method, one file: a module that holds modules."""
