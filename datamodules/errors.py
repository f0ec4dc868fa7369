"""The error of every problem with a data set, and the checks of options that raise it."""

from collections.abc import Sequence


class DataError(ValueError):
    """A mistake in the user's data: one sentence that names the file and says what to do."""


def one_of(field: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise DataError(f"data.{field}={value} is none of {', '.join(allowed)}")
    return value


def whole_number(field: str, value: float, least: int) -> None:
    if int(value) != value or value < least:
        nearest = max(round(value), least)
        raise DataError(
            f"{field}={value} is not a whole number from {least} up: the nearest is {nearest}"
        )
