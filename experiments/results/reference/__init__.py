"""What the authors' code computes, in numbers: made once by running it, kept here to hold the
project against."""
