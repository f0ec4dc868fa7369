"""Answer an unknown name with the nearest known one."""

from collections.abc import Collection

from experiments.command_line.errors import UserError
from segmodels.nearest_names import nearest_name


def known_name(kind: str, word: str, known: Collection[str], prefix: str = "") -> str:
    """The word itself if it is known; else an error with the nearest one and all there are."""
    if word in known:
        return word
    name = nearest_name(word, known)
    raise unknown_name(kind, f"{prefix}{word}", name and f"{prefix}{name}", known)


def unknown_name(kind: str, word: str, nearest: str, known: Collection[str]) -> UserError:
    """The error for a word that names nothing; `nearest` is empty where nothing is like it."""
    return UserError(
        f"there is no {kind} {word}; {did_you_mean(nearest)}there are {', '.join(known)}"
    )


def did_you_mean(name: str) -> str:
    """ "did you mean bisenet? ", or nothing where no known name is like the word."""
    return f"did you mean {name}? " if name else ""
