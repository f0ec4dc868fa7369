"""Parse the words group.name=value of a command line. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.names import did_you_mean, known_name, unknown_name
from experiments.command_line.row_patterns import row_address, row_entry
from segmodels.nearest_names import nearest_name, synonyms
from segmodels.network_identity import respelled

Option = Mapping[str, Any]  # kind of value and default, as the catalogue has them
Groups = Mapping[str, Mapping[str, Option]]  # group -> name -> option
NOTHING = ("none", "null", "")
TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True)
TRUTH |= dict.fromkeys(("false", "no", "off", "0"), False)


def truth(text: str) -> bool:
    return TRUTH[text.lower()]


# kind of option -> how to read it, and what it takes
KINDS = {
    "text": (str, "a word"),
    "bool": (truth, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
}


def parse_override(word: str, groups: Groups) -> tuple[str, str, Any]:
    """ "recipe.lr=0.01" as its group, name and value."""
    group, name, text = split_word(word, groups)
    if not groups[group]:
        remedy = "; name a method, such as --semi mean_teacher" if group == "semi" else ""
        raise UserError(f"{word}: there are no {group} options here{remedy}")
    if name not in groups[group]:
        nearest = nearest_address(name, groups, group)
        raise unknown_name("field", f"{group}.{name}", nearest, groups[group])
    return group, name, parse_value(text, groups[group][name], f"{group}.{name}")


def split_word(word: str, groups: Groups) -> tuple[str, str, str]:
    """ "recipe", "lr" and "0.01" of "recipe.lr=0.01"."""
    address, equals, text = word.partition("=")
    group, dot, name = respelled(address).partition(".")
    if not (equals and dot):
        guess = did_you_mean("" if dot else nearest_address(group, groups))
        raise UserError(
            f"{word} is not understood; {guess}write group.name=value, such as recipe.lr=0.01 "
            f"(groups: {', '.join(groups)})"
        )
    if group not in groups:
        nearest = nearest_address(name, groups) or nearest_name(group, groups)
        raise unknown_name("group", group, nearest, groups)
    return group, name, text


def nearest_address(name: str, groups: Groups, group: str = "") -> str:
    """ "recipe.lr" for "learning_rate", whatever group it was given to; then a name like it.

    Where there is a recipe it may be an option, such as --init. Empty where nothing is like it.
    """
    fields = {f"{each}.{field}": field for each in groups for field in groups[each]}
    own = {address: field for address, field in fields.items() if address.startswith(f"{group}.")}
    for known in (own, fields):
        if field := nearest_name(name, known.values(), cutoff=1):
            return next(address for address in known if known[address] == field)
    if "recipe" in groups and (options := [each for each in synonyms(name) if each[0] == "-"]):
        return options[0]
    field = nearest_name(name, own.values())
    return f"{group}.{field}" if field else ""


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
    if "choices" in option:
        return known_name("choice", respelled(text), option["choices"], f"{address}=")
    read, takes = KINDS[option["kind"]]
    try:
        return read(text)
    except (KeyError, ValueError):
        words = option.get("words", ())
        sentence = f"{address}={text}: it takes {', or '.join([takes, *words])}"
        guess = did_you_mean(nearest_name(text, words))
        raise UserError(f"{sentence}; {guess}".rstrip("; ")) from None


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
    groups: Groups = {"data": {}, "model": {}}
    words: dict[str, list[str]] = {group: [] for group in groups}
    for word in overrides:
        words[split_word(word, groups)[0]].append(word)
    return words["data"], words["model"]
