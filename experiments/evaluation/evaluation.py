"""Scoring a checkpoint: the same code that validates during training, on any split and in any inference mode."""

from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.command_line import files
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import as_user_error, quiet
from experiments.command_line.files import write_text
from experiments.command_line.names import known_name
from experiments.command_line.networks import ReleasedCheckpoint, folder_of
from experiments.command_line.overrides import data_options
from experiments.command_line.values import PLACES
from experiments.drawing.label_images import IGNORED, colored, save, sheet
from experiments.evaluation.failure_images import Shown
from experiments.evaluation.failure_page import failure_page
from experiments.evaluation.per_image import Examiner, measures, surprise, uncertainty
from experiments.evaluation.score import (
    fresh,
    open_data,
    published_of,
    same_classes,
    score,
    stored_options,
)
from experiments.records.image_records import Examined
from experiments.records.trained_networks import options_of, trained
from experiments.reports.table_rows import model_words
from experiments.reports.terminal import class_table, protocol_table, published_lines
from segmodels.module import SegmentationModule
from segmodels.prediction import choose_device, predict, predicted_strips, set_inference
from segmodels.recipe import inference_steps


def judge(source: Path | ReleasedCheckpoint, asked: Namespace) -> int:
    quiet()
    with as_user_error():
        options = options_of(source, asked.model)
        module = trained(source, asked.which, options)
        name = known_name("data set", asked.data or module.identity.data, list(catalogue()["data"]))
        given = data_options(name, asked.overrides)
        data = open_data(
            name, stored_options(source, module, name) | given, asked.split, source, module
        )
        companions = [companion(each, data) for each in asked.beside]
        networks = (
            protocols(module, source, asked.which, options)
            if asked.protocols
            else [(asked.inference or module.recipe.inference, module)]
        )
    for network in dict.fromkeys(network for _, network in networks):
        note_overrides(network, given, asked.which)
    results = [
        judged_by(mode, network, data, name, source, asked, companions)
        for mode, network in networks
    ]
    if asked.protocols:
        protocol_table(results)
    return 0


def note_overrides(module: SegmentationModule, given: dict[str, Any], which: str | None) -> None:
    """What the evaluation was asked for beyond the run's own words."""
    identity = module.identity
    overrides = {f"data.{key}": given[key] for key in given if key not in PLACES}
    if which and which != identity.networks[0]:
        overrides["network"] = which  # another network than the method's own choice
    module.identity = replace(identity, overrides={**identity.overrides, **overrides})


def judged_by(
    mode: str,
    module: SegmentationModule,
    data: Any,
    name: str,
    source: Path | ReleasedCheckpoint,
    asked: Namespace,
    companions: list,
) -> dict:
    """One protocol: scored, shown, written with all that belongs to it."""
    set_inference(module, mode, asked.precision)
    examiner = Examiner(data, asked.split, asked.full)
    result = score(module, data, name, asked.split, examiner)
    examined = examiner.found(described(result), data.class_names, data.palette)
    result |= uncertainty(examined) | {"checkpoint": where(source)}
    if asked.full:
        result["full"] = measures(examined)
    class_table(result)
    for line in (*(published_lines(result) if not asked.protocols else ()), data.caution):
        print(line) if line else None
    file = asked.out or placed(source, asked, how_named(module, result["data"], asked.split))
    keep(result, examined, file)
    images = data.open(asked.split)
    if asked.pictures and (companions or isinstance(source, ReleasedCheckpoint)):
        pictures = file.with_suffix(".png")
        save(
            beside_each_other(
                [(heading(result), module), *companions], images, data.palette, asked.pictures
            ),
            pictures,
        )
        print(f"pictures     {pictures}")
    if asked.page:
        write_text(
            asked.page, failure_page(examined, partial(shown, module.to(choose_device()), images))
        )
        print(f"page         {asked.page}")
    return result


def keep(result: dict[str, Any], examined: Examined, file: Path) -> None:
    """The records first: a result that names them has them."""
    records = file.with_suffix(".npz")
    examined.save(records)
    files.write_json(file, result | {"records": records.name})
    print(f"result       {file}")


def protocols(
    module: SegmentationModule,
    source: Path | ReleasedCheckpoint,
    which: str | None,
    given: dict[str, Any],
) -> list[tuple[str, SegmentationModule]]:
    """Every inference mode with the network for it: the recipe's own, and those of the paper.

    A mode that the paper reports comes with the options that it reports, unless options are given:
    these hold for every mode. What cannot be run is told and left out.
    """
    settings = {(module.recipe.inference, ""): {}}
    for figure in published_of(module):
        options = {} if given else figure["model"]
        settings.setdefault((figure["protocol"], model_words({"model": options})), options)
    networks = {"": module}
    found = []
    for (protocol, words), options in settings.items():
        if words not in networks:
            networks[words] = network_with(options, words, source, which) or module
        if can_run(protocol):
            found.append((protocol, networks[words]))
    return list(dict.fromkeys(found))


def can_run(protocol: str) -> bool:
    try:
        inference_steps(protocol)
    except ValueError:
        print(
            f'the paper also reports "{protocol}", which no inference mode computes: it is left out'
        )
        return False
    return True


def network_with(
    options: dict[str, Any], words: str, source: Path | ReleasedCheckpoint, which: str | None
) -> SegmentationModule | None:
    """The network with the options of a published figure.

    None where it was trained with them, or where its weights cannot be evaluated with them.
    """
    try:
        network = trained(source, which, options)
    except ValueError as problem:
        print(f"the paper also reports {words}, which is left out: {problem}")
        return None
    return network if network.identity.evaluated_with else None


def how_named(module: SegmentationModule, data: str, split: str) -> str:
    """The part of a file's name that says what was evaluated, and how."""
    options = module.identity.evaluated_with
    words = [f"{name}={value}" for name, value in options.items()]
    return "-".join([data, split, module.recipe.inference, *words])


def placed(
    source: Path | ReleasedCheckpoint,
    asked: Namespace,
    about: str,
    kind: str = "evaluation",
    own: str = "result.json",
) -> Path:
    """A new file: beside a run's checkpoint; in a folder of its own, as a run has one, for the authors' checkpoint."""
    if isinstance(source, Path):
        return fresh(
            source.parent, "-".join(filter(None, (kind, source.stem, asked.which, about))), ".json"
        )
    folder = fresh(asked.runs, f"released-{source.layout}-{about}")
    folder.mkdir(parents=True)
    return folder / own


def where(source: Path | ReleasedCheckpoint) -> str:
    """The checkpoint, without the folders of this machine."""
    return (
        source.file.name
        if isinstance(source, ReleasedCheckpoint)
        else str(source.relative_to(folder_of(source)))
    )


def described(result: dict[str, Any]) -> str:
    place = f"{result['images']} images of {result['data']} {result['split']}"
    how = [result["protocol"], model_words(result), result["precision"]]
    return f"{heading(result)} on {place} ({', '.join(filter(None, how))})"


def heading(result: dict[str, Any]) -> str:
    return (
        f"{result['experiment']} (released {result['released']})"
        if result["released"]
        else result["experiment"]
    )


# --- pictures


def companion(source: Path | ReleasedCheckpoint, data: Any) -> tuple[str, SegmentationModule]:
    """A second network to look at, by its own recipe's inference mode."""
    module = trained(source)
    same_classes(source, module, data)
    set_inference(module, None, None)
    released = module.identity.released
    return (
        f"{module.identity.experiment} ({f'released {released}' if released else 'trained here'})",
        module,
    )


def beside_each_other(
    networks: list[tuple[str, SegmentationModule]], source: Any, palette: Any, count: int
) -> Any:
    """Some images spread over the split: image, truth, and what each network says."""
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int).tolist()
    rows = []
    for index in chosen:
        image, label = source.window(index)
        guesses = [
            predict(module.to(choose_device()), image) for _, module in networks
        ]  # a Trainer leaves it on the CPU
        shown = [
            colored(np.where(label == IGNORED, IGNORED, guess).astype(np.uint8), palette)
            for guess in guesses
        ]
        rows.append((image, colored(label, palette), *shown))
    heads = ("image", "truth", *(name for name, _ in networks))
    return sheet(
        rows,
        heads,
        f"{len(chosen)} of {len(source)} images; ignored pixels are black",
        512,
        smooth=(0,),
    )


def shown(module: SegmentationModule, source: Any, index: int) -> Shown:
    """One image again, with what the network says and how sure it is."""
    image, label = source.window(index)
    with predicted_strips(module, [image]) as strips:
        predicted, (_, confidence) = (
            strips.argmax()[0],
            surprise(strips, torch.from_numpy(label).to(module.device)),
        )
    return Shown(image, label, predicted.cpu().numpy(), confidence.float().cpu().numpy())
