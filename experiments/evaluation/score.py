"""Score a network on a split, and put the result together."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

import datamodules
from datamodules.module import SegmentationData
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.networks import ReleasedCheckpoint
from experiments.evaluation.per_image import Examiner, JudgingBar
from experiments.records import provenance
from experiments.records.results import PublishedFigure, Result
from experiments.records.trained_networks import NUMBERED, config_of
from experiments.reports.published import model_words
from segmodels.metrics import scores
from segmodels.module import SegmentationModule
from segmodels.paper import experiment, inference_parameters
from segmodels.paper import paper as find_paper

# --- what is judged


def stored_options(
    source: Path | ReleasedCheckpoint, module: SegmentationModule, name: str
) -> dict[str, Any]:
    """The run's own options (root, sizes, ...), if it is evaluated on its own data set and its config.json is still beside it."""
    if name != module.identity.data or isinstance(source, ReleasedCheckpoint):
        return {}
    stored = {
        key.removeprefix("data."): value
        for key, value in module.identity.overrides.items()
        if key.startswith("data.")
    }
    if config := config_of(source):
        stored = (
            config["data"] if config.get("experiment") == module.identity.experiment else stored
        )
    known = catalogue()["data"][name]["options"]
    return {key: value for key, value in stored.items() if key in known}


def open_data(
    name: str,
    options: dict[str, Any],
    split: str,
    source: Path | ReleasedCheckpoint,
    module: SegmentationModule,
    labeled: bool = True,
) -> Any:
    """The data set, its split opened where it has labels; its classes must be the network's."""
    data = datamodules.dataset(name)(**options)
    same_classes(source, module, data)
    if labeled:
        data.open(split)
    return data


def same_classes(source: Path | ReleasedCheckpoint, module: SegmentationModule, data: Any) -> None:
    ours, theirs, name = (
        list(module.identity.classes),
        list(data.class_names),
        type(data).__name__.lower(),
    )
    unnamed = ours == NUMBERED[: len(theirs)]
    if ours != theirs and not unnamed:
        raise UserError(
            f"{source} tells {len(ours)} classes apart ({', '.join(ours[:3])}, ...) and {name} has {len(theirs)} "
            f"({', '.join(theirs[:3])}, ...); evaluate it on the data set it was trained on ({module.identity.data})"
        )


def score(
    module: SegmentationModule, data: Any, name: str, split: str, examiner: Examiner
) -> Result:
    trainer = trainer_of(module, JudgingBar(len(data.open(split))), examiner)
    released = module.identity.released
    trained_for = (
        f"as released ({released})" if released else f"after {module.identity.iterations} steps"
    )
    options = model_words(module.identity.evaluated_with)
    how = filter(None, (module.recipe.inference, options, module.recipe.precision))
    print(
        f"{module.identity.experiment} {trained_for}, on {len(data.open(split))} images of {name} {split} "
        f"({', '.join(how)})",
        flush=True,
    )
    with telling_ctrl_c():
        (trainer.validate if split == "val" else trainer.test)(
            module, dataloaders=data.eval_dataloader(split), verbose=False
        )
    if not module.scores["pixels"]:
        raise UserError(
            f"no pixel of {name} {split} has a label: there is nothing to judge; see the labels with experiments/check_data.py"
        )
    return result_of(module, data, name, split, module.identity.iterations)


def trainer_of(module: SegmentationModule, *watching: Callback) -> Trainer:
    """That judges in the recipe's precision on one device, and says and writes nothing itself."""
    return Trainer(
        precision=module.recipe.precision, devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[*watching],
    )  # fmt: skip


@contextmanager
def telling_ctrl_c() -> Iterator[None]:
    """Of a KeyboardInterrupt Lightning makes a silent exit with code 1: the program would not say what it stopped at."""
    try:
        yield
    except SystemExit as problem:
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
        official_images=data.official(split),
        pixels=module.scores["pixels"],
        semi=identity.semi,
        network=identity.network or next(iter(identity.networks), None),
        others={each: named_scores(data, scored) for each, scored in others.items()},
        labeled=identity.labeled,
        seed=identity.seed,
        iterations=iterations,
        parameters=sum(each.numel() for each in module.evaluated.parameters()),
        inference_parameters=inference_parameters(network, module.num_classes),
        hardware=provenance.hardware(),
        precision=module.recipe.precision,
        commit=provenance.commit(),
        versions=provenance.versions(),
        date=date.today().isoformat(),
        departures=identity.departures,
        overrides=identity.overrides,
        model=identity.evaluated_with,
        published=[PublishedFigure(**figure) for figure in published_of(module)],
        released=identity.released,
        port=identity.port,
        checkpoint=None,
        seconds=None,
        cpu_seconds=None,
        smoke=identity.smoke,
        finished=bool(identity.released)
        or (not identity.smoke and iterations >= module.recipe.iterations),
    )


def published_of(module: SegmentationModule) -> list[dict[str, Any]]:
    """The row's figures; a released checkpoint brings those of whoever trained it."""
    if module.identity.published is not None:
        return list(module.identity.published)
    row = experiment(module.identity.experiment)
    return [figure.as_dict() for figure in row.published]


def named_scores(data: SegmentationData, scored: dict[str, Any]) -> dict[str, Any]:
    """The scores of a confusion matrix, per class by name; `miou` as torchmetrics gave it."""
    names = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    named = {name: scored[name] for name in names}
    for name in ("iou", "accuracy"):
        named[name] = dict(zip(data.class_names, scored[name]))
    if data.labels.categories:
        again = scores(torch.tensor(scored["confusion"]), data.labels.categories)
        named |= {name: again[name] for name in ("category_miou", "categories")}
    return named


def fresh(folder: Path, stem: str, suffix: str = "") -> Path:
    """A name that nothing has yet: evaluations are never overwritten."""
    stem = "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in stem)
    path, count = folder / f"{stem}{suffix}", 1
    while path.exists():
        path, count = folder / f"{stem}-{count}{suffix}", count + 1
    return path
