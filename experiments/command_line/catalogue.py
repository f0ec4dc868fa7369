"""results/catalogue.json: what there is to run, readable without importing torch.

It is generated from the papers' and data sets' own files and holds their hashes: a file that changed is imported again.
`python -m experiments.command_line.catalogue` makes all of it anew.
"""

import hashlib
import inspect
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import datamodules
from segmodels import semisup
from segmodels.recipe import Recipe, inference_steps

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "experiments" / "results" / "catalogue.json"
IMAGES = {
    "cityscapes": (1024, 2048),
    "camvid": (360, 480),
}  # where all images of a data set have one size
SMOKE_CROP = (64, 128)
GIVEN_ELSEWHERE = (
    "accumulate",
    "seed",
    "semi",
)  # arguments of a data set that are not in its group: trainer.accumulate, --seed, --semi


def catalogue(anew: bool = False) -> dict[str, Any]:
    """The catalogue as the files are now; only what changed is imported, unless everything is made anew."""
    stored = json.loads(FILE.read_text()) if FILE.exists() and not anew else {}
    architectures, data = ROOT / "segmodels" / "architectures", ROOT / "datamodules"
    read = (ROOT / "segmodels" / "recipe.py", Path(__file__))
    papers = {
        file.stem: hashed(file, *read)
        for file in architectures.glob("*.py")
        if file.stem != "__init__"
    }
    sets = {name: hashed(data / f"{name}.py", data / "module.py") for name in datamodules.names()}
    methods = {
        name: hashed(ROOT / "segmodels" / "semisup" / f"{name}.py") for name in semisup.names()
    }
    return {
        "papers": _refreshed(stored.get("papers", {}), papers, paper_entry),
        "data": _refreshed(stored.get("data", {}), sets, data_entry),
        "semi": _refreshed(stored.get("semi", {}), methods, semi_entry),
    }


def hashed(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _refreshed(
    stored: Mapping[str, dict], hashes: Mapping[str, str], entry: Callable[[str], dict]
) -> dict[str, dict]:
    fresh = {name for name, value in hashes.items() if stored.get(name, {}).get("hash") == value}
    return {
        name: stored[name] if name in fresh else {"hash": value} | entry(name)
        for name, value in sorted(hashes.items())
    }


def paper_entry(name: str) -> dict[str, Any]:
    from segmodels.paper import paper

    found = paper(name)
    reported = plain(reported_on(found))
    return {
        "title": found.title,
        "arxiv": found.arxiv,
        "departures": found.departures,
        "main": found.main,
        "rows": {
            row: row_entry(experiment) | {"reported": reported}
            for row, experiment in found.rows.items()
        },
    }


def reported_on(paper: Any) -> list[dict[str, Any]]:
    """The data sets, with their options, that any row of the paper has a figure on."""
    figures = [figure.as_dict() for row in paper.rows.values() for figure in row.published]
    places = [{"data": each["data"], "options": each["options"]} for each in figures]
    return [place for number, place in enumerate(places) if place not in places[:number]]


def row_entry(experiment: Any) -> dict[str, Any]:
    from segmodels.paper import blueprint, inference_parameters, macs

    module, size = blueprint(experiment), counted_at(experiment)
    return {
        "data": experiment.data,
        "model": plain(experiment.model),
        "recipe": plain(asdict(experiment.recipe)),
        "budgets": plain(experiment.budgets),
        "starts_from": experiment.starts_from,
        "pretrained": pretrained(experiment, module),
        "published": plain([figure.as_dict() for figure in experiment.published]),
        "published_speed": plain([asdict(figure) for figure in experiment.published_speed]),
        "options": options(experiment.network.__init__, skip=("self", "num_classes")),
        "smoke_crop": smoke_crop(module),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "inference_parameters": inference_parameters(experiment),
        "macs": macs(module, size),
        "macs_size": list(size),
    }


def pretrained(experiment: Any, module: Any) -> bool:
    """Whether the paper starts from ImageNet, also where no library has the weights for it."""
    from segmodels.paper import paper

    if experiment.starts_from:
        return experiment.starts_from != "scratch"
    name = experiment.name.partition("/")[0]
    return paper(name).arxiv is not None and module.encoder() is not None


def smoke_crop(module: Any) -> list[int]:
    """The smallest crop, no smaller than SMOKE_CROP, that the network takes and that leaves pixels inside its margin."""
    least = 2 * module.margin + 32 * bool(module.margin)
    return [module.valid_side(max(side, least)) for side in SMOKE_CROP]


def counted_at(experiment: Any) -> tuple[int, int]:
    """What the network sees of one image: all of it, resized where the row's protocol says so; the crop where images differ in size."""
    height, width = IMAGES.get(experiment.data, experiment.recipe.crop)
    scale = next(
        (
            float(argument)
            for mode, argument in inference_steps(experiment.recipe.inference)
            if mode == "resized"
        ),
        1.0,
    )
    return round(height * scale), round(width * scale)


def data_entry(name: str) -> dict[str, Any]:
    kind = datamodules.dataset(name)
    own = [
        each
        for each in reversed(kind.__mro__)
        if each.__module__.startswith("datamodules") and "__init__" in vars(each)
    ]
    known = {
        key: value for each in own for key, value in options(each.__init__, skip=("self",)).items()
    }
    elsewhere = {field.name for field in fields(Recipe)} | set(GIVEN_ELSEWHERE)
    return {
        "title": (inspect.getdoc(inspect.getmodule(kind)) or name).splitlines()[0],
        "budget": plain(kind.budget),
        "options": {key: value for key, value in known.items() if key not in elsewhere},
    }


def semi_entry(name: str) -> dict[str, Any]:
    kind = semisup.method(name)
    return {
        "title": inspect.getdoc(inspect.getmodule(kind)).splitlines()[0],
        "options": options(kind.__init__, skip=("self", "make")),
    }


def options(source: Callable | type, skip: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Name -> kind of value and default, of a dataclass or of a function's arguments."""
    if is_dataclass(source):
        hints = get_type_hints(source)
        return {
            f.name: kind_of(hints[f.name])
            | {"default": plain(None if f.default is MISSING else f.default)}
            for f in fields(source)
        }
    hints, found = get_type_hints(source), {}
    for name, argument in inspect.signature(source).parameters.items():
        if name not in skip and argument.kind is not argument.VAR_KEYWORD and name in hints:
            default = None if argument.default is argument.empty else argument.default
            found[name] = kind_of(hints[name]) | {"default": plain(default)}
    return found


def kind_of(hint: Any) -> dict[str, Any]:
    """A type hint as data: {"kind": "int", "length": 2}, {"kind": "text", "choices": [...]}; "optional" where None is allowed, "words" that
    may stand for numbers."""
    if get_origin(hint) in (Union, types.UnionType):
        found = [kind_of(each) for each in get_args(hint) if each is not type(None)]
        words = [word for each in found[1:] for word in each.get("choices", ())]
        optional = {"optional": True} if type(None) in get_args(hint) else {}
        return found[0] | optional | ({"words": words} if words else {})
    if get_origin(hint) is Literal:
        return {"kind": "text", "choices": list(get_args(hint))}
    if get_origin(hint) is tuple:
        inside = [each for each in get_args(hint) if each is not Ellipsis]
        return kind_of(inside[0]) | {"length": 0 if Ellipsis in get_args(hint) else len(inside)}
    return {"kind": {int: "int", float: "float", bool: "bool"}.get(hint, "text")}


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists, mappings are dicts."""
    return json.loads(
        json.dumps(value, default=lambda odd: dict(odd) if isinstance(odd, Mapping) else str(odd))
    )


def written() -> str:
    """Made anew: what papers share, such as a backbone, may have changed without a change in their own files."""
    return json.dumps(catalogue(anew=True), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(written())
    print(f"wrote {FILE.relative_to(ROOT)}")
