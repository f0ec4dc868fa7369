"""Networks that several papers share; a paper hands in its own modules."""
