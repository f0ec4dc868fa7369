"""Score a network on a split, and put the result together."""

import itertools
import re
from collections.abc import Iterable
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

import datamodules
from datamodules.module import SegmentationData
from datamodules.progress import with_progress
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.networks import Checkpoint
from experiments.records import provenance
from experiments.records.results import PublishedFigure, Result
from experiments.records.trained_networks import NUMBERED, config_of
from experiments.reports.published_figures import model_words, options_of
from segmodels.metrics import scores
from segmodels.module import SegmentationModule
from segmodels.paper import experiment, inference_parameters
from segmodels.paper import paper as find_paper

# What a result says in the words of its network's identity.
AS_TRAINED = ("semi", "labeled", "seed", "departures", "overrides", "released", "port", "smoke")

# --- the data


def stored_options(source: Checkpoint, module: SegmentationModule, name: str) -> dict[str, Any]:
    """The run's own options (root, sizes, ...), if it is evaluated on its own data set.

    They are those of its config.json where that is still beside the checkpoint.
    """
    identity = module.identity
    if name != identity.data:
        return {}
    config = config_of(source)
    stored = options_of(identity.overrides, "data")
    if config.get("experiment") == identity.experiment:
        stored = config["data"]
    known = catalogue()["data"][name]["options"]
    return {key: value for key, value in stored.items() if key in known}


def open_data(
    name: str,
    options: dict[str, Any],
    split: str,
    source: Checkpoint,
    module: SegmentationModule,
    labeled: bool = True,
) -> SegmentationData:
    """The data set, its split opened where it has labels; its classes must be the network's."""
    data = datamodules.dataset(name)(**options)
    check_classes(source, module, data)
    if labeled:
        data.open(split)
    return data


def name_of(data: SegmentationData) -> str:
    """The data set's name on the command line."""
    return type(data).__name__.lower()


def check_classes(source: Checkpoint, module: SegmentationModule, data: SegmentationData) -> None:
    ours = list(module.identity.classes)
    theirs = list(data.class_names)
    if ours not in (theirs, NUMBERED[: len(theirs)]):
        raise UserError(
            f"{source} has {len(ours)} classes ({', '.join(ours[:3])}, ...) and "
            f"{name_of(data)} has {len(theirs)} ({', '.join(theirs[:3])}, ...); "
            f"evaluate it on the data set it was trained on ({module.identity.data})"
        )


# --- the score


def scope(module: SegmentationModule, data: SegmentationData, split: str) -> str:
    """ "on 233 images of camvid test (whole, 32-true)" """
    recipe = module.recipe
    runtime = "" if module.runtime == "torch" else module.runtime
    options = model_words(module.identity.evaluated_with)
    how = (recipe.inference, options, recipe.precision, runtime)
    images = f"{len(data.open(split))} images of {name_of(data)} {split}"
    return f"on {images} ({', '.join(filter(None, how))})"


def score(
    module: SegmentationModule, data: SegmentationData, split: str, examiner: Callback
) -> Result:
    identity = module.identity
    trained_for = f"after {identity.iterations} steps"
    if identity.released:
        trained_for = f"as released ({identity.released})"
    print(f"{identity.experiment} {trained_for}, {scope(module, data, split)}", flush=True)
    # closing ends the bar where Ctrl-C or an error ends the pass
    with closing(with_progress(data.eval_dataloader(split), "evaluating")) as batches:
        run_trainer(module, batches, split, examiner)
    if not module.scores["pixels"]:
        raise UserError(
            f"no pixel of {name_of(data)} {split} has a label: there is nothing to evaluate; "
            "see the labels with experiments/check_data.py"
        )
    return result_of(module, data, name_of(data), split, identity.iterations)


def run_trainer(
    module: SegmentationModule, batches: Iterable, split: str = "val", *callbacks: Callback
) -> None:
    """Evaluate in the recipe's precision on one device; only the callbacks print or write."""
    trainer = Trainer(
        precision=module.recipe.precision,
        accelerator=module.computes_on,
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[*callbacks],
    )
    run = trainer.validate if split == "val" else trainer.test
    try:
        run(module, dataloaders=batches, verbose=False)
    except SystemExit as problem:
        # Lightning makes a silent exit of Ctrl-C: the program would not say where it stopped.
        if isinstance(problem.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def result_of(
    module: SegmentationModule, data: SegmentationData, data_name: str, split: str, iterations: int
) -> Result:
    """The result of a module that has just been evaluated."""
    identity = module.identity
    row = experiment(identity.experiment)
    paper, _, name = row.name.partition("/")
    network = module if identity.released else row.but(model=identity.model)
    others = module.scores.get("others", {})
    return Result(
        experiment=row.name,
        paper=paper,
        row=name,
        title=find_paper(paper).title,
        data=data_name,
        split=split,
        protocol=module.recipe.inference,
        **named_scores(data, module.scores),
        images=len(data.open(split)),
        official_images=data.counts.get(split),
        pixels=module.scores["pixels"],
        network=identity.network or next(iter(identity.networks), None),
        others={each: named_scores(data, scored) for each, scored in others.items()},
        iterations=iterations,
        parameters=sum(each.numel() for each in module.evaluated.parameters()),
        inference_parameters=inference_parameters(network, module.num_classes),
        hardware=provenance.hardware(),
        precision=module.recipe.precision,
        runtime=module.runtime,
        commit=provenance.commit(),
        versions=provenance.versions(),
        date=date.today().isoformat(),
        model=identity.evaluated_with,
        **{name: getattr(identity, name) for name in AS_TRAINED},
        published=published_of(module),
        checkpoint=None,
        seconds=None,
        cpu_seconds=None,
        finished=bool(identity.released)
        or (not identity.smoke and iterations >= module.recipe.iterations),
    )


def published_of(module: SegmentationModule) -> list[PublishedFigure]:
    """The row's figures, which are of its own encoder; a released checkpoint brings those of
    whoever trained it.
    """
    identity = module.identity
    published = identity.published
    if published is None:
        row = experiment(identity.experiment)
        own = identity.model.get("encoder") == row.model.get("encoder")
        published = [figure.as_dict() for figure in row.published] if own else []
    return [PublishedFigure(**figure) for figure in published]


def named_scores(data: SegmentationData, scored: dict[str, Any]) -> dict[str, Any]:
    """The scores of a confusion matrix, per class by name; `miou` as torchmetrics gave it."""
    names = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    named = {name: scored[name] for name in names}
    for name in ("iou", "accuracy"):
        named[name] = dict(zip(data.class_names, scored[name]))
    if categories := data.labels.categories:
        again = scores(torch.tensor(scored["confusion"]), categories)
        named |= {name: again[name] for name in ("category_miou", "categories")}
    return named


def fresh(folder: Path, stem: str, suffix: str = "") -> Path:
    """A name that nothing has yet: evaluations are never overwritten."""
    stem = re.sub(r"[^\w.-]", "_", stem)
    for count in itertools.count():
        path = folder / f"{stem}{f'-{count}' if count else ''}{suffix}"
        if not path.exists():
            return path
