"""Which published figures may stand beside a result: those that were measured in the same way."""

import json
from collections.abc import Mapping
from typing import Any

from experiments.command_line.catalogue import catalogue
from experiments.records.results import PublishedFigure, Result

WITHOUT_INFLUENCE = ("resident", "unlabeled")  # of the data set's options; see also PLACES


def comparable(result: Result) -> list[PublishedFigure]:
    """The published figures that agree with the result.

    There are none for another network, another way of training, or a part of the images.
    A released checkpoint's figures are those of whoever trained it: the authors', or another code
    line's own.
    """
    if result.partial or trained_otherwise(result):
        return []
    return [figure for figure in result.published if agree(figure, result)]


def trained_otherwise(result: Result) -> bool:
    """The run trained another network than the row's, or by a semi-supervised method."""
    given = {f"model.{name}" for name in result.model}
    changed = [name.partition(".")[0] for name in result.overrides if name not in given]
    departed = any(departure.startswith("model.") for departure in result.departures)
    return departed or "model" in changed or "semi" in changed


def agree(figure: PublishedFigure, result: Result) -> bool:
    """Both share data, split, protocol, options of the network and options of the data."""
    place = (figure.data, figure.split, figure.protocol)
    if place != (result.data, result.split, result.protocol):
        return False
    return (figure.model, figure.options) == (result.model, data_options(result))


def data_options(result: Result) -> dict[str, Any]:
    """The options of the data set that a score depends on, where they are not its defaults."""
    given = options_of(result.overrides, "data")
    if not given:
        return {}
    known = catalogue()["data"].get(result.data, {}).get("options", {})
    return {
        name: value
        for name, value in given.items()
        if name not in WITHOUT_INFLUENCE and value != known.get(name, {}).get("default")
    }


# --- options in words


def options_of(overrides: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return {"arm": False} for the group "model" of {"model.arm": False, "recipe.lr": 0.1}."""
    return {
        name.removeprefix(f"{group}."): value
        for name, value in overrides.items()
        if name.startswith(f"{group}.")
    }


def overrides_of(model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a network and of a data set, as the command line calls them."""
    on_model = {f"model.{name}": value for name, value in model.items()}
    return on_model | {f"data.{name}": value for name, value in data.items()}


def words_of(overrides: Mapping[str, Any]) -> list[str]:
    """As they are written on the command line: ["model.arm=false"]."""
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in sorted(overrides.items())
    ]


def model_words(model: Mapping[str, Any]) -> str:
    """Options of a network in words: "model.output_stride=8"."""
    return ", ".join(words_of(overrides_of(model, {})))


def measured_as(measured: PublishedFigure | Result) -> str:
    """The protocol with its options, in words: "whole, model.output_stride=8"."""
    own = isinstance(measured, PublishedFigure)
    options = measured.options if own else data_options(measured)
    return ", ".join([measured.protocol, *words_of(overrides_of(measured.model, options))])


def name_with(experiment: str, overrides: Mapping[str, Any], released: str | None = None) -> str:
    """The address with its overrides, and whose checkpoint it is where it is not ours."""
    given = {name: value for name, value in overrides.items() if name != "released"}
    whose = [f"(released {released})"] if released else []
    return " ".join([experiment, *words_of(given), *whose])


def name_of(result: Result) -> str:
    return name_with(result.experiment, result.overrides, result.released)
