"""The error that every problem with a data set is told by."""


class DataError(ValueError):
    """A mistake in the user's data: one sentence that names the file and says what to do."""
