"""Evaluate a network on corrupted images and other data sets: evaluate.py --shift, --across."""

import argparse
from functools import partial
from pathlib import Path

from datamodules.corruptions import kinds_of
from datamodules.reading.sources import Part, Source
from datamodules.sampling.loader import Loader
from datamodules.sampling.samples import Whole
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.files import whole, write_json
from experiments.command_line.names import known_name
from experiments.command_line.networks import Checkpoint
from experiments.drawing.label_images import save
from experiments.evaluation import robustness_result
from experiments.evaluation.checkpoint import (
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
from experiments.evaluation.score import open_data, run_trainer
from experiments.reports.number_formats import console
from segmodels.prediction import choose_device, predict, set_inference


def evaluate_robustness(source: Checkpoint, args: argparse.Namespace) -> int:
    quiet()
    with as_user_error():
        kinds = kinds_of(args.shift) if args.shift else ()
        roots = folders(args.across) if args.across else {}
        reference = robustness_result.read(args.reference) if args.reference else None
        module, name, data = open_network(source, args)
        set_inference(module, args.inference, args.precision)
        images = spread(data.open(args.split), args.shift_images)
        others = {}
        for other, root in roots.items():
            opened = open_data(other, {"root": root}, args.split, source, module)
            others[other] = spread(opened.open(args.split), args.shift_images)
        setting = {
            "data": name,
            "split": args.split,
            "protocol": module.recipe.inference,
            "precision": module.recipe.precision,
            "images": len(images),
        }
        if reference:
            wanted = dict.fromkeys(kinds, args.severities)
            robustness_result.check_comparable(reference, setting, wanted)
    identity = module.identity
    what = f"{len(images)} images of {name} {args.split}"
    passes = 1 + len(kinds) * len(args.severities)
    print(f"{identity.experiment}: {passes} times {what}", flush=True)

    def miou_of(images: Source) -> float:
        """By the code that validates during training."""
        batches = [[index] for index in range(len(images))]
        run_trainer(module, Loader(Whole(images), batches, data.worker_count(images)))
        return module.scores["miou"]

    result = robustness_result.measure(images, miou_of, kinds, args.severities, others, setting)
    console().print(robustness_table(result, reference))
    about = evaluation_name(module, name, args.split)
    file = result_file(source, args, about, "shift", "shift.json")
    content = {
        "experiment": identity.experiment,
        "model": identity.evaluated_with,
        "released": identity.released,
        "checkpoint": name_in_run(source),
        "shift": result.content(),
    }
    write_json(file, content)
    print(f"result       {file}")
    plot = file.with_suffix(".png")
    with whole(plot) as unfinished:
        figure = robustness_plot(result, f"{identity.experiment} on {what}")
        figure.savefig(unfinished, format="png")
    print(f"plot         {plot}")
    if kinds:
        pictures = file.with_name(f"{file.stem}-images.png")
        predict_label = partial(predict, module.to(choose_device()))
        severities = shown_severities(args.severities)
        save(robustness_sheet(images, predict_label, data.palette, kinds, severities), pictures)
        print(f"pictures     {pictures}")
    return 0


def spread(source: Source, count: int | None) -> Source:
    """Some images from first to last, or all of them."""
    if count is None or count >= len(source):
        return source
    return Part(source, indexes_across(source, count))


def shown_severities(severities: list[int]) -> list[int]:
    """At most three, from the mildest to the worst: a sheet has room for no more."""
    return sorted({severities[0], severities[len(severities) // 2], severities[-1]})


def folders(text: str) -> dict[str, Path]:
    """Folders by data set, out of "acdc=DIR,bdd100k=DIR"."""
    roots: dict[str, Path] = {}
    for word in text.split(","):
        name, _, folder = (part.strip() for part in word.partition("="))
        if not (name and folder):
            raise UserError(
                f"--across {text}: {word.strip() or 'nothing'} is not understood; "
                "write NAME=DIR,NAME=DIR, such as acdc=DIR"
            )
        name = known_name("data set", name, list(catalogue()["data"]))
        if name in roots:
            raise UserError(f"--across {text}: {name} is named twice; give it one folder")
        roots[name] = Path(folder).expanduser()
        if not roots[name].is_dir():
            raise UserError(
                f"--across {text}: there is no folder {folder}; give the folder that holds {name}"
            )
    return roots
