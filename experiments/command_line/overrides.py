"""Parse the words group.name=value of a command line. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.names import did_you_mean, known_name
from experiments.command_line.row_patterns import row_address, row_entry
from segmodels.identity import respelled

Option = Mapping[str, Any]  # kind of value and default, as the catalogue has them
Groups = Mapping[str, Mapping[str, Option]]  # group -> name -> option
NOTHING = ("none", "null", "")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse_override(word: str, groups: Groups) -> tuple[str, str, Any]:
    """ "recipe.lr=0.01" as its group, name and value."""
    address, _, text = word.partition("=")
    address = respelled(address)
    group, name = group_of(word, groups), address.partition(".")[2]
    if not groups[group]:
        remedy = "; name a method, such as --semi mean_teacher" if group == "semi" else ""
        raise UserError(f"{word}: there are no {group} options here{remedy}")
    known_name("field", name, groups[group], f"{group}.")
    return group, name, parse_value(text, groups[group][name], address)


def group_of(word: str, groups: Sequence[str] | Groups) -> str:
    """ "recipe" of "recipe.lr=0.01"."""
    address, equals, _ = word.partition("=")
    group, dot, _ = address.partition(".")
    if not equals or not dot:
        raise UserError(
            f"{word} is not understood; write group.name=value, such as recipe.lr=0.01 "
            f"(groups: {', '.join(groups)})"
        )
    return known_name("group", group, groups)


def parse_value(text: str, option: Option, address: str) -> Any:
    if option.get("optional") and text.lower() in NOTHING:
        return None
    if text in option.get("words", ()):
        return text
    if "length" not in option:
        return parse_single(text, option, address)
    parts = [part for part in text.strip("()[]").replace("x", ",").split(",") if part.strip()]
    length = option["length"]
    if length and len(parts) != length:
        example = as_text(option["default"] or [512, 1024])
        raise UserError(f"{address}={text}: it takes {length} values, such as {example}")
    return [parse_single(part.strip(), option, address) for part in parts]


def parse_single(text: str, option: Option, address: str) -> Any:
    kind = option["kind"]
    if "choices" in option:
        return known_name("choice", respelled(text), option["choices"], f"{address}=")
    if kind == "text":
        return text
    if kind == "bool":
        if text.lower() not in TRUE + FALSE:
            raise UserError(f"{address}={text}: it takes true or false")
        return text.lower() in TRUE
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        words = option.get("words", ())
        allowed = ["a whole number" if kind == "int" else "a number", *words]
        guess = did_you_mean(text, words).strip()
        sentence = f"{address}={text}: it takes {', or '.join(allowed)}"
        raise UserError(f"{sentence}; {guess}" if guess else sentence) from None


def as_text(value: Any) -> str:
    """A value as a person reads it; many of them are counted."""
    if isinstance(value, (list, tuple)):
        inside = ", ".join(as_text(each) for each in value)
        return f"({inside})" if len(value) <= 6 else f"{len(value)} values"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- words of one or two groups


def data_options(data: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Options of the data set by name, out of data.name=value words."""
    return parse_overrides({"data": catalogue()["data"][data]["options"]}, overrides)


def model_options(row: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Options of a row's network by name, out of model.name=value words."""
    return parse_overrides({"model": row_entry(row_address(row))["options"]}, overrides)


def parse_overrides(groups: Groups, overrides: Sequence[str]) -> dict[str, Any]:
    options = {}
    for word in overrides:
        _, name, options[name] = parse_override(word, groups)
    return options


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of an evaluation: those of the data set, and those of the network."""
    words: dict[str, list[str]] = {"data": [], "model": []}
    for word in overrides:
        words[group_of(word, words)].append(word)
    return words["data"], words["model"]
