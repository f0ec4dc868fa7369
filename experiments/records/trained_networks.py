"""Open a trained network: a run or checkpoint of ours, or the checkpoint that authors released."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.names import known_name
from experiments.command_line.networks import ReleasedCheckpoint, folder_of
from experiments.command_line.overrides import data_options, model_options
from experiments.records.run_folder import read_config

if TYPE_CHECKING:
    from datamodules.labels import LabelSet
    from segmodels.module import SegmentationModule
    from segmodels.paper import Released

# What a run's checkpoint says beside its network.
STORED = ("data", "classes", "palette", "seed", "departures", "overrides", "smoke")
Words = Sequence[str]  # such as "model.eval_iterations=5"
# Classes of a released network that nobody named.
NUMBERED = [f"class {number}" for number in range(256)]


def config_of(source: Path | ReleasedCheckpoint) -> dict[str, Any]:
    """The run's config.json where it is beside the checkpoint; else nothing. Imports no torch."""
    if isinstance(source, ReleasedCheckpoint) or not (folder_of(source) / "config.json").is_file():
        return {}
    return read_config(folder_of(source))


def check_words(
    source: Path | ReleasedCheckpoint, data: str | None, on_data: Words, on_model: Words
) -> None:
    """Refuse wrong words before torch is imported, where a run's config.json explains them."""
    if not (on_data or on_model):
        return
    known = catalogue()
    config = config_of(source)
    data = known_name("data set", data, known["data"]) if data else config.get("data_name")
    if data in known["data"]:
        data_options(data, on_data)
    paper, _, row = config.get("experiment", "").partition("/")
    if row in known["papers"].get(paper, {}).get("rows", {}):
        model_options(f"{paper}/{row}", on_model)


def options_of(source: Path | ReleasedCheckpoint, words: Words) -> dict[str, Any]:
    """Options to evaluate the network with, by name, out of model.name=value words."""
    if not words:
        return {}
    if isinstance(source, Path):
        from segmodels.own_checkpoints import from_checkpoint

        row = config_of(source).get("experiment") or from_checkpoint(source).identity.experiment
        return model_options(row, words)
    from segmodels.paper import unknown
    from segmodels.released_checkpoints import layouts

    known = layouts()
    if source.layout not in known:
        raise UserError(unknown("released layout", source.layout, sorted(known)))
    given = [word.partition("=")[0].removeprefix("model.") for word in words]
    return model_options(known[source.layout].row_of(source.layout, given).name, words)


def trained(
    source: Path | ReleasedCheckpoint,
    network: str | None = None,
    model: Mapping[str, Any] | None = None,
) -> "SegmentationModule":
    """The module for inference; its `identity` says its training data and its classes.

    `model` are options to evaluate it with. Those that it was not trained with are overrides too.
    """
    if isinstance(source, ReleasedCheckpoint):
        module = released(source, network, model)
    else:
        from segmodels.own_checkpoints import from_checkpoint

        module = from_checkpoint(source, network, model)
        if lacking := [name for name in STORED if getattr(module.identity, name) is None]:
            raise UserError(
                f"{source} does not say its {', '.join(lacking)}; "
                "give a checkpoint that experiments/run.py wrote"
            )
    identity = module.identity
    others = {f"model.{name}": value for name, value in identity.evaluated_with.items()}
    module.identity = replace(identity, overrides={**identity.overrides, **others})
    return module


def released(
    source: ReleasedCheckpoint, network: str | None, model: Mapping[str, Any] | None
) -> "SegmentationModule":
    """The module of the authors' checkpoint, which does not say its classes: they are those of the
    row's data set, or numbers where the counts differ."""
    from segmodels.module import SegmentationModule
    from segmodels.paper import experiment
    from segmodels.released_checkpoints import from_released, layouts

    if network:
        raise UserError(f"{source} holds one network alone; leave out --network {network}")
    module = from_released(source.layout, source.file, model)
    layout = layouts()[source.layout]
    if not isinstance(module, SegmentationModule) or not layout.address:
        raise UserError(
            f"{source}: {source.layout} segments no image; give a layout of a segmentation network"
        )
    row = experiment(layout.address)
    published = layout.published if layout.port else row.published
    module.identity = replace(
        module.identity,
        experiment=row.name,
        released=source.layout,
        port=layout.port,
        published=[figure.as_dict() for figure in published],
        data=data_of(layout),
        **appearance(data_of(layout), module.num_classes, layout.names),
        seed=0,
        departures=[],
        overrides={"released": source.layout},
        smoke=False,
        iterations=0,
    )
    return module


def data_of(layout: "Released") -> str:
    """The name of the data set that a released network was trained on; empty for a classifier."""
    from segmodels.paper import experiment

    return layout.data or (experiment(layout.address).data if layout.address else "")


def released_classes(layout: "Released", count: int) -> list[str]:
    """The names of a released network's classes, or numbers."""
    return appearance(data_of(layout), count, layout.names)["classes"]


def appearance(data: str, count: int, names: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Names and colors of the data set's classes if it has so many; else the names given, or
    numbers, and colors that are easily distinguished."""
    from datamodules.labels import devkit_color

    labels = labels_of(data)
    if labels and len(labels.names) == count:
        return {"classes": list(labels.names), "palette": [list(color) for color in labels.palette]}
    return {
        "classes": list(names) if len(names) == count else NUMBERED[:count],
        "palette": [list(devkit_color(n)) for n in range(1, count + 1)],
    }


def labels_of(data: str) -> "LabelSet | None":
    """The classes of a data set of ours, where its name alone tells them."""
    import datamodules
    from datamodules.labels import LabelSet

    known = datamodules.dataset(data) if data in datamodules.names() else None
    labels = getattr(known, "labels", None)
    return labels if isinstance(labels, LabelSet) else None
