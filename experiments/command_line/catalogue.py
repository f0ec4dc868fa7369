"""The catalogue: every paper, row, data set and method that there is to run, readable without
torch.

results/catalogue/ holds a file for each paper, and for each data set and method in data/ and semi/.
They are generated from the papers' and data sets' own files and hold the hash of these: what
changed is imported again. `python -m experiments.command_line.catalogue` writes all of them anew,
and with names (`... fcn streets`) those alone.
"""

import hashlib
import inspect
import json
import sys
import types
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import datamodules
from experiments.command_line.files import write_json
from segmodels import semisup
from segmodels.recipe import Recipe, inference_steps

if TYPE_CHECKING:
    from segmodels.module import SegmentationModule
    from segmodels.paper import Cost, Experiment, Paper

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "results" / "catalogue"
PLACES = {"papers": ".", "data": "data", "semi": "semi"}  # in the folder, by kind of entry
IMAGES = {"cityscapes": (1024, 2048), "camvid": (360, 480)}  # where all have one size
SMOKE_CROP = (64, 128)
# Arguments of a data set that are not in its group: trainer.accumulate, --seed, --semi.
GIVEN_ELSEWHERE = ("accumulate", "seed", "semi")


# --- reading


@cache
def catalogue() -> dict[str, dict[str, dict]]:
    """Papers, data sets and methods by name, as their files are now."""
    known = {kind: {} for kind in PLACES}
    for kind, name, files in sources():
        entry = stored_entry(FOLDER, kind, name)
        if entry.get("hash") != hashed(files):
            entry = made_entry(kind, name, files)
        known[kind][name] = in_full(entry) if kind == "papers" else entry
    return known


def sources() -> Iterator[tuple[str, str, list[Path]]]:
    """Kind and name of every entry, and the files that it is made of."""
    code, data = ROOT / "segmodels", ROOT / "datamodules"
    for file in sorted((code / "architectures").glob("[!_]*.py")):
        yield "papers", file.stem, [file, code / "recipe.py", Path(__file__)]
    for name in sorted(datamodules.names()):
        yield "data", name, [data / f"{name}.py", data / "module.py"]
    for name in sorted(semisup.names()):
        yield "semi", name, [code / "semisup" / f"{name}.py"]


def hashed(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def stored_entry(folder: Path, kind: str, name: str) -> dict[str, Any]:
    file = folder / PLACES[kind] / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def made_entry(kind: str, name: str, files: Sequence[Path]) -> dict[str, Any]:
    make = {"papers": paper_entry, "data": data_entry, "semi": semi_entry}[kind]
    return {"hash": hashed(files)} | make(name)


# --- rows as differences, which keeps a paper's file short


def usual_row() -> dict[str, Any]:
    """The values that the main row of a paper is stored as a difference from."""
    recipe = plain(asdict(Recipe()))
    usual = {"model": {}, "budgets": {}, "starts_from": None}
    return usual | {"published": [], "published_speed": [], "recipe": recipe}


def difference(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the row, and of its recipe, that are not as in the other one."""
    return {
        name: difference(value, other[name]) if name == "recipe" else value
        for name, value in row.items()
        if name not in other or value != other[name]
    }


def changed(other: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The other row with the differences of this one."""
    return {**other, **row, "recipe": other["recipe"] | row.get("recipe", {})}


def in_full(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored paper with all values of every row."""
    main = changed(usual_row(), stored["rows"][stored["main"]])
    return {**stored, "rows": {name: changed(main, row) for name, row in stored["rows"].items()}}


# --- entries


def paper_entry(name: str) -> dict[str, Any]:
    from segmodels.paper import paper

    known = paper(name)
    reported = reported_on(known)
    full = {row: row_entry(each) | {"reported": reported} for row, each in known.rows.items()}
    main = full[known.main]
    others = {row: usual_row() if row == known.main else main for row in full}
    return {
        "title": known.title,
        "arxiv": known.arxiv,
        "departures": known.departures,
        "main": known.main,
        "rows": {row: difference(entry, others[row]) for row, entry in full.items()},
    }


def reported_on(paper: "Paper") -> list[dict[str, Any]]:
    """The data sets, with their options, that any row of the paper has a figure on."""
    places = []
    for row in paper.rows.values():
        for figure in row.published:
            place = plain({"data": figure.data, "options": figure.as_dict()["options"]})
            if place not in places:
                places.append(place)
    return places


def row_entry(experiment: "Experiment") -> dict[str, Any]:
    from segmodels.paper import meta_network

    module = meta_network(experiment)
    size = counted_at(experiment)
    cost = cost_of(experiment, size)
    entry = {
        "data": experiment.data,
        "model": experiment.model,
        "recipe": asdict(experiment.recipe),
        "budgets": experiment.budgets,
        "starts_from": experiment.starts_from,
        "pretrained": pretrained(experiment, module),
        "published": [figure.as_dict() for figure in experiment.published],
        "published_speed": [asdict(figure) for figure in experiment.published_speed],
        "options": options(experiment.network.__init__, skip=("num_classes",)),
        "smoke_crop": smoke_crop(module),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "inference_parameters": cost.parameters,
        "macs": cost.macs,
        "macs_size": size,
    }
    return plain(entry)


def cost_of(experiment: "Experiment", size: tuple[int, int]) -> "Cost":
    """Count what a network costs, once for all rows that have it."""
    from segmodels.paper import inference_cost

    key = experiment.network, repr(experiment.model), size
    if key not in COSTS:
        COSTS[key] = inference_cost(experiment, size)
    return COSTS[key]


COSTS: "dict[tuple[type, str, tuple[int, int]], Cost]" = {}


def pretrained(experiment: "Experiment", module: "SegmentationModule") -> bool:
    """True where the paper starts from ImageNet, also if no library has the weights for it."""
    from segmodels.paper import paper

    if experiment.starts_from:
        return experiment.starts_from != "scratch"
    name = experiment.name.partition("/")[0]
    return paper(name).arxiv is not None and module.encoder() is not None


def smoke_crop(module: "SegmentationModule") -> list[int]:
    """The smallest crop that the network takes, no smaller than SMOKE_CROP and its margin."""
    least = 2 * module.margin + 32 if module.margin else 0
    return [module.valid_side(max(side, least)) for side in SMOKE_CROP]


def counted_at(experiment: "Experiment") -> tuple[int, int]:
    """The size of an image at which the network is timed and its operations are counted: the crop
    where images differ in size, else all of it, resized where the row's protocol says so."""
    size = IMAGES.get(experiment.data, experiment.recipe.crop)
    steps = dict(inference_steps(experiment.recipe.inference))
    scale = float(steps.get("resized", 1))
    return tuple(round(side * scale) for side in size)


def data_entry(name: str) -> dict[str, Any]:
    kind = datamodules.dataset(name)
    elsewhere = [*options(Recipe), *GIVEN_ELSEWHERE]
    own: dict[str, dict] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("datamodules") and "__init__" in vars(each):
            own |= options(each.__init__, skip=elsewhere)
    return {
        "title": first_sentence(inspect.getmodule(kind)),
        "budget": plain(kind.budget),
        "options": own,
    }


def first_sentence(module: types.ModuleType) -> str:
    """The first paragraph of a module's docstring, in one line."""
    paragraph = (inspect.getdoc(module) or module.__name__).partition("\n\n")[0]
    return " ".join(paragraph.split())


def semi_entry(name: str) -> dict[str, Any]:
    kind = semisup.method(name)
    return {
        "title": inspect.getdoc(inspect.getmodule(kind)).splitlines()[0],
        "options": options(kind.__init__, skip=("make",)),
    }


def options(source: Callable | type, skip: Container[str] = ()) -> dict[str, dict[str, Any]]:
    """Name -> kind of value and default, of a dataclass or of a function's arguments."""
    hints = get_type_hints(source)
    known = {}
    for name, argument in inspect.signature(source).parameters.items():
        if name in skip or name not in hints or argument.kind is argument.VAR_KEYWORD:
            continue
        default = None if argument.default is argument.empty else argument.default
        known[name] = kind_of(hints[name]) | {"default": plain(default)}
    return known


def kind_of(hint: Any) -> dict[str, Any]:
    """A type hint as data, such as {"kind": "int", "length": 2} or {"kind": "text", "choices":
    [...]}.

    With "optional" None is allowed too; "words" may stand for a number.
    """
    origin = get_origin(hint)
    inside = get_args(hint)
    if origin in (Union, types.UnionType):
        kind, *others = (kind_of(each) for each in inside if each is not types.NoneType)
        if types.NoneType in inside:
            kind["optional"] = True
        if words := [word for each in others for word in each.get("choices", ())]:
            kind["words"] = words
        return kind
    if origin is Literal:
        return {"kind": "text", "choices": list(inside)}
    if origin is tuple:
        return kind_of(inside[0]) | {"length": 0 if Ellipsis in inside else len(inside)}
    return {"kind": hint.__name__ if hint in (int, float, bool) else "text"}


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists, mappings are dicts."""
    return json.loads(json.dumps(value, default=dict))


# --- writing


def write(folder: Path = FOLDER, names: Sequence[str] = ()) -> None:
    """All files anew: what papers share may have changed without a change in their own files.

    `names` are those of some papers, data sets and methods.
    """
    every = list(sources())
    if unknown := set(names) - {name for _, name, _ in every}:
        raise ValueError(f"the catalogue has no {', '.join(sorted(unknown))}")
    for kind, name, files in every:
        if names and name not in names:
            continue
        file = folder / PLACES[kind] / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, made_entry(kind, name, files))


if __name__ == "__main__":
    write(names=sys.argv[1:])
    print(f"wrote {FOLDER.relative_to(ROOT)}")
