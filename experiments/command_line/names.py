"""Answer an unknown name with the nearest known one."""

from collections.abc import Iterable
from difflib import get_close_matches

from experiments.command_line.errors import UserError


def known_name(kind: str, word: str, known: Iterable[str], prefix: str = "") -> str:
    """The word itself if it is known; else an error with the nearest one and all there are."""
    if word in known:
        return word
    raise UserError(
        f"there is no {kind} {prefix}{word}; {did_you_mean(word, known, prefix)}"
        f"there are {', '.join(known)}"
    )


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """ "did you mean bisenet? ", or nothing where no known name is like the word."""
    name = nearest_name(word, known)
    return f"did you mean {prefix}{name}? " if name else ""


def nearest_name(word: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """The known name that is most like the word, capitals aside; empty where none is."""
    names = {name.lower(): name for name in known}
    matches = get_close_matches(word.lower(), names, n=1, cutoff=cutoff)
    return names[matches[0]] if matches else ""
