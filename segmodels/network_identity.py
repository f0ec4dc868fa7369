"""The description of a network that a checkpoint holds beside its weights.

It names the row and its options, the data set, and how the network was trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

# Spellings of earlier versions, which stored runs and command lines may still have.
RESPELLED = {"labelled": "labeled", "unlabelled": "unlabeled"}


def respelled(name: str) -> str:
    """Return "data.labeled" for "data.labelled", which files of earlier versions hold."""
    group, dot, option = name.rpartition(".")
    return f"{group}{dot}{RESPELLED.get(option, option)}"


def with_current_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {respelled(name): value for name, value in stored.items()}


@dataclass(frozen=True)
class Identity:
    """A network and its training, described well enough to rebuild it without its run folder.

    The first two fields are known of every row's network. The next seven are written by every run
    and are None if a checkpoint lacks them. The others default to what most networks have.
    """

    experiment: str = ""  # "paper/row"
    model: Mapping[str, Any] = field(default_factory=dict)  # the network's options

    data: str | None = None  # the data set that it was trained on
    classes: Sequence[str] | None = None
    palette: Sequence[Sequence[int]] | None = None  # a color (red, green, blue) per class
    seed: int | None = None
    departures: Sequence[str] | None = None  # sentences on what differs from the paper
    overrides: Mapping[str, Any] | None = None  # of the command line, by name
    smoke: bool | None = None  # a few steps that only show that everything works

    labeled: Mapping[str, Any] | None = None  # which images have labels; None: all of them
    semi: Mapping[str, Any] | None = None  # the semi-supervised method and its options
    networks: Sequence[str] = ()  # the method's networks by name, the evaluated one first
    network: str | None = None  # the one of `networks` that this is
    iterations: int | None = None  # optimizer steps taken
    released: str | None = None  # the layout of an authors' checkpoint
    port: bool = False  # another code line's network: the row's figures are not its own
    published: Sequence[Mapping[str, Any]] | None = None  # None: the row's own figures
    # the options that it is evaluated with and was not trained with
    evaluated_with: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, without those that are None."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Identity":
        """Read what `as_dict` or an older version wrote; unknown names are ignored."""
        stored = with_current_names(stored)
        values = {each.name: stored[each.name] for each in fields(cls) if each.name in stored}
        if values.get("overrides"):
            values["overrides"] = with_current_names(values["overrides"])
        return cls(**values)
