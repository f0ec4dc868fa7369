"""Evaluate a network on corrupted images and other data sets: evaluate.py --shift, --across."""

import argparse
from functools import partial
from pathlib import Path

from datamodules.corruptions import kinds_of
from datamodules.module import SegmentationData
from datamodules.reading.sources import Part, Source
from datamodules.sampling.loader import Loader
from datamodules.sampling.samples import Whole
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.files import whole, write_json
from experiments.command_line.names import known_name
from experiments.command_line.networks import Checkpoint
from experiments.drawing.label_images import save
from experiments.evaluation.evaluator import (
    evaluation_name,
    indexes_across,
    name_in_run,
    open_network,
    result_file,
)
from experiments.evaluation.robustness_report import (
    robustness_plot,
    robustness_sheet,
    robustness_table,
)
from experiments.evaluation.robustness_result import Robustness, check_comparable, measure, read
from experiments.evaluation.score import name_of, open_data, run_trainer
from experiments.reports.number_formats import console
from segmodels.module import SegmentationModule
from segmodels.prediction import predict, prepared, set_inference, set_runtime


def evaluate_robustness(source: Checkpoint, args: argparse.Namespace) -> int:
    quiet()
    with as_user_error():
        kinds = kinds_of(args.shift) if args.shift else ()
        roots = folders(args.across) if args.across else {}
        reference = read(args.reference) if args.reference else None
        module, data = open_network(source, args)
        set_inference(module, args.inference, args.precision)
        set_runtime(module, args.runtime, args.device)
        images = chosen_images(data, args)
        others = {
            other: chosen_images(open_data(other, {"root": root}, args.split, source, module), args)
            for other, root in roots.items()
        }
    setting = {
        "data": name_of(data),
        "split": args.split,
        "protocol": module.recipe.inference,
        "precision": module.recipe.precision,
        "images": len(images),
    }
    if reference:
        check_comparable(reference, setting, dict.fromkeys(kinds, args.severities))
    experiment = module.identity.experiment
    what = f"{len(images)} images of {name_of(data)} {args.split}"
    print(f"{experiment}: {1 + len(kinds) * len(args.severities)} times {what}", flush=True)

    def miou_of(images: Source) -> float:
        """By the code that validates during training."""
        batches = [[index] for index in range(len(images))]
        run_trainer(module, Loader(Whole(images), batches, data.worker_count(images)))
        return module.scores["miou"]

    result = measure(images, miou_of, kinds, args.severities, others, setting)
    console().print(robustness_table(result, reference))
    about = evaluation_name(module, data, args.split)
    file = result_file(source, args, about, "shift", "shift.json")
    write(result, file, module, name_in_run(source), f"{experiment} on {what}")
    if kinds:
        pictures = file.with_name(f"{file.stem}-images.png")
        predict_label = partial(predict, prepared(module))
        severities = shown_severities(args.severities)
        classes = (data.class_names, data.palette)
        save(robustness_sheet(images, predict_label, *classes, kinds, severities), pictures)
        print(f"pictures     {pictures}")
    return 0


def chosen_images(data: SegmentationData, args: argparse.Namespace) -> Source:
    """All images of the split, or so many from first to last."""
    source = data.open(args.split)
    return Part(source, indexes_across(source, args.shift_images)) if args.shift_images else source


def write(
    result: Robustness, file: Path, module: SegmentationModule, checkpoint: str, title: str
) -> None:
    """Write the result's file and its plot."""
    identity = module.identity
    content = {
        "experiment": identity.experiment,
        "model": identity.evaluated_with,
        "released": identity.released,
        "checkpoint": checkpoint,
        "shift": result.content(),
    }
    write_json(file, content)
    print(f"result       {file}")
    plot = file.with_suffix(".png")
    with whole(plot) as unfinished:
        robustness_plot(result, title).savefig(unfinished, format="png")
    print(f"plot         {plot}")


def shown_severities(severities: list[int]) -> list[int]:
    """At most three, from the mildest to the worst: a sheet has room for no more."""
    return sorted({severities[0], severities[len(severities) // 2], severities[-1]})


def folders(text: str) -> dict[str, Path]:
    """Folders by data set, out of "acdc=DIR,bdd100k=DIR"."""
    roots = {}
    for word in text.split(","):
        name, _, folder = word.strip().partition("=")
        if not (name and folder):
            raise UserError(
                f"--across {text}: {word.strip() or 'nothing'} is not understood; "
                "write NAME=DIR,NAME=DIR, such as acdc=DIR"
            )
        roots[known_name("data set", name, list(catalogue()["data"]))] = Path(folder).expanduser()
    return roots
