"""evaluate.py --shift and --across: what a network loses on corrupted images and on other data sets of its classes."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.corruptions import chosen
from datamodules.reading.sources import Part, Source
from datamodules.sampling.loader import Loader
from datamodules.sampling.samples import Whole
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import as_user_error, quiet
from experiments.command_line.files import whole, write_json
from experiments.command_line.names import known_name
from experiments.command_line.networks import ReleasedCheckpoint
from experiments.command_line.overrides import data_options
from experiments.drawing.label_images import save
from experiments.evaluation.evaluation import how_named, placed, where
from experiments.evaluation.robustness_report import shift_plot, shift_sheet, shift_table
from experiments.evaluation.robustness_result import places, read, shift
from experiments.evaluation.score import open_data, stored_options, telling_ctrl_c, trainer_of
from experiments.records.trained_networks import options_of, trained
from experiments.reports.terminal import console
from segmodels.module import SegmentationModule
from segmodels.prediction import choose_device, predict, set_inference


def endure(source: Path | ReleasedCheckpoint, asked: argparse.Namespace) -> int:
    quiet()
    with as_user_error():
        kinds, roots = (
            chosen(asked.shift) if asked.shift else (),
            places(asked.across) if asked.across else {},
        )
        reference = read(asked.reference) if asked.reference else None
        module = trained(source, asked.which, options_of(source, asked.model))
        name = known_name("data set", asked.data or module.identity.data, list(catalogue()["data"]))
        options = stored_options(source, module, name) | data_options(name, asked.overrides)
        data = open_data(name, options, asked.split, source, module)
        set_inference(module, asked.inference, asked.precision)
        images = spread(data.open(asked.split), asked.shift_images)
        others = {each: spread(open_data(each, {"root": root}, asked.split, source, module).open(asked.split), asked.shift_images)
                  for each, root in roots.items()}  # fmt: skip
    setting = {
        "data": name,
        "split": asked.split,
        "protocol": module.recipe.inference,
        "precision": module.recipe.precision,
    }
    passes = 1 + len(kinds) * len(asked.severities)
    print(
        f"{module.identity.experiment}: {passes} times {len(images)} images of {name} {asked.split}",
        flush=True,
    )
    found = shift(
        images,
        judge_of(module, data),
        kinds,
        asked.severities,
        others=others,
        setting=setting,
        reference=reference,
    )
    console().print(shift_table(found, reference))
    file = placed(source, asked, how_named(module, name, asked.split), "shift", "shift.json")
    about = {
        "experiment": module.identity.experiment,
        "model": module.identity.evaluated_with,
        "released": module.identity.released,
        "checkpoint": where(source),
    }
    write_json(file, about | {"shift": found.content()})
    print(f"result       {file}")
    title = f"{module.identity.experiment} on {len(images)} images of {name} {asked.split}"
    plot = file.with_suffix(".png")
    with whole(plot) as place:
        shift_plot(found, title).savefig(place, format="png")
    print(f"plot         {plot}")
    if kinds:
        sheet = file.with_name(f"{file.stem}-images.png")
        prediction = partial(predict, module.to(choose_device()))
        save(
            shift_sheet(
                images, len(images) // 2, prediction, data.palette, kinds, ends(asked.severities)
            ),
            sheet,
        )
        print(f"pictures     {sheet}")
    return 0


def spread(source: Source, count: int | None) -> Source:
    """Some images from first to last; all of them where there are no more."""
    if count is None or count >= len(source):
        return source
    return Part(source, np.linspace(0, len(source) - 1, count).round().astype(int).tolist())


def ends(severities: list[int]) -> list[int]:
    """At most three of them, from the mildest to the worst: as many as a sheet has room for."""
    return sorted({severities[0], severities[len(severities) // 2], severities[-1]})


def judge_of(module: SegmentationModule, data: Any) -> Callable[[Source], dict[str, Any]]:
    """The score of any source, by the code that validates during training."""

    def judge(source: Source) -> dict[str, Any]:
        images = Loader(
            Whole(source), [[index] for index in range(len(source))], data.worker_count(source)
        )
        with telling_ctrl_c():
            trainer_of(module).validate(module, dataloaders=images, verbose=False)
        return module.scores

    return judge
