"""Networks that several papers share: a paper hands in what is its own."""
