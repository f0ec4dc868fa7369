"""Scoring a checkpoint: the same code that validates during training, on any split and in any inference mode."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer

import datamodules
from datamodules import DataError
from experiments import runs
from experiments.command_line import PLACES, Refused, catalogue, data_options, named, refuse
from experiments.door import door, quiet
from experiments.examined import Examined
from experiments.examining import Examiner, JudgingBar, measures, surprise, uncertainty
from experiments.failures import failure_page
from experiments.networks import NUMBERED, Authors, config_of, folder_of, options_of, trained
from experiments.pictures import IGNORED, colored, save, sheet
from experiments.rows import model_words
from experiments.seeing import device_of, label_of, seeing, settle
from experiments.tables import class_table, protocol_table, published_lines
from experiments.worst import Shown
from experiments.writing import write_text
from segmodels.metrics import scores
from segmodels.module import SegmentationModule
from segmodels.paper import experiment, inference_parameters
from segmodels.paper import paper as find_paper
from segmodels.recipe import inference_steps


def judge(source: Path | Authors, asked: Namespace) -> int:
    quiet()
    try:
        with door():
            options = options_of(source, asked.model)
            module = trained(source, asked.which, options)
            name = named(
                "data set", asked.data or module.identity["data"], list(catalogue()["data"])
            )
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
    except (Refused, DataError) as problem:
        return refuse(problem)
    if asked.protocols:
        protocol_table(results)
    return 0


def note_overrides(module: SegmentationModule, given: dict[str, Any], which: str | None) -> None:
    """What the evaluation was asked for beyond the run's own words."""
    overrides = module.identity["overrides"]
    overrides |= {f"data.{key}": given[key] for key in given if key not in PLACES}
    if which and which != module.identity["networks"][0]:
        overrides["network"] = which  # another network than the method's own choice


def judged_by(
    mode: str,
    module: SegmentationModule,
    data: Any,
    name: str,
    source: Path | Authors,
    asked: Namespace,
    companions: list,
) -> dict:
    """One protocol: scored, shown, written with all that belongs to it."""
    settle(module, mode, asked.precision)
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
    if asked.pictures and (companions or isinstance(source, Authors)):
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
            asked.page, failure_page(examined, partial(shown, module.to(device_of()), images))
        )
        print(f"page         {asked.page}")
    return result


def keep(result: dict[str, Any], examined: Examined, file: Path) -> None:
    """The records first: a result that names them has them."""
    records = file.with_suffix(".npz")
    examined.save(records)
    runs.write_json(file, result | {"records": records.name})
    print(f"result       {file}")


def protocols(
    module: SegmentationModule,
    source: Path | Authors,
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
    options: dict[str, Any], words: str, source: Path | Authors, which: str | None
) -> SegmentationModule | None:
    """The network with the options of a published figure.

    None where it was trained with them, or where its weights cannot be evaluated with them.
    """
    try:
        network = trained(source, which, options)
    except ValueError as problem:
        print(f"the paper also reports {words}, which is left out: {problem}")
        return None
    return network if network.identity["evaluated_with"] else None


def how_named(module: SegmentationModule, data: str, split: str) -> str:
    """The part of a file's name that says what was evaluated, and how."""
    options = module.identity.get("evaluated_with", {})
    words = [f"{name}={value}" for name, value in options.items()]
    return "-".join([data, split, module.recipe.inference, *words])


def placed(
    source: Path | Authors,
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


def where(source: Path | Authors) -> str:
    """The checkpoint, without the folders of this machine."""
    return (
        source.file.name
        if isinstance(source, Authors)
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


def companion(source: Path | Authors, data: Any) -> tuple[str, SegmentationModule]:
    """A second network to look at, by its own recipe's inference mode."""
    module = trained(source)
    same_classes(source, module, data)
    settle(module, None, None)
    released = module.identity.get("released")
    return (
        f"{module.identity['experiment']} ({f'released {released}' if released else 'trained here'})",
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
            label_of(module.to(device_of()), image) for _, module in networks
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
    with seeing(module, [image]) as strips:
        predicted, (_, confidence) = (
            strips.argmax()[0],
            surprise(strips, torch.from_numpy(label).to(module.device)),
        )
    return Shown(image, label, predicted.cpu().numpy(), confidence.float().cpu().numpy())


# --- what is judged


def stored_options(source: Path | Authors, module: SegmentationModule, name: str) -> dict[str, Any]:
    """The run's own options (root, sizes, ...), if it is evaluated on its own data set and its config.json is still beside it."""
    if name != module.identity["data"] or isinstance(source, Authors):
        return {}
    stored = {
        key.removeprefix("data."): value
        for key, value in module.identity["overrides"].items()
        if key.startswith("data.")
    }
    if config := config_of(source):
        stored = (
            config["data"] if config.get("experiment") == module.identity["experiment"] else stored
        )
    known = catalogue()["data"][name]["options"]
    return {key: value for key, value in stored.items() if key in known}


def open_data(
    name: str,
    options: dict[str, Any],
    split: str,
    source: Path | Authors,
    module: SegmentationModule,
    labelled: bool = True,
) -> Any:
    """The data set, its split opened where it has labels; its classes must be the network's."""
    data = getattr(datamodules, datamodules.names()[name])(**options)
    same_classes(source, module, data)
    if labelled:
        data.open(split)
    return data


def same_classes(source: Path | Authors, module: SegmentationModule, data: Any) -> None:
    ours, theirs, name = (
        list(module.identity["classes"]),
        list(data.class_names),
        type(data).__name__.lower(),
    )
    unnamed = ours == NUMBERED[: len(theirs)]
    if ours != theirs and not unnamed:
        raise Refused(
            f"{source} tells {len(ours)} classes apart ({', '.join(ours[:3])}, ...) and {name} has {len(theirs)} "
            f"({', '.join(theirs[:3])}, ...); evaluate it on the data set it was trained on ({module.identity['data']})"
        )


def score(
    module: SegmentationModule, data: Any, name: str, split: str, examiner: Examiner
) -> dict[str, Any]:
    trainer = trainer_of(module, JudgingBar(len(data.open(split))), examiner)
    released = module.identity.get("released")
    trained_for = (
        f"as released ({released})" if released else f"after {module.identity['iterations']} steps"
    )
    options = model_words({"model": module.identity.get("evaluated_with")})
    how = filter(None, (module.recipe.inference, options, module.recipe.precision))
    print(
        f"{module.identity['experiment']} {trained_for}, on {len(data.open(split))} images of {name} {split} "
        f"({', '.join(how)})",
        flush=True,
    )
    with telling_ctrl_c():
        (trainer.validate if split == "val" else trainer.test)(
            module, dataloaders=data.judging(split), verbose=False
        )
    if not module.scores["pixels"]:
        raise Refused(
            f"no pixel of {name} {split} has a label: there is nothing to judge; see the labels with experiments/check_data.py"
        )
    return result_of(module, data, name, split, module.identity["iterations"])


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
    module: Any, data: Any, data_name: str, split: str, iterations: int
) -> dict[str, Any]:
    """result.json: the score with everything that a comparison needs to know, out of a module that has just been judged."""
    identity, scores, row = (
        module.identity,
        module.scores,
        experiment(module.identity["experiment"]),
    )
    paper, _, name = identity["experiment"].partition("/")
    return {
        "schema": runs.SCHEMA,
        "experiment": identity["experiment"],
        "paper": paper,
        "row": name,
        "title": find_paper(paper).title,
        "data": data_name,
        "split": split,
        "protocol": module.recipe.inference,
        **judged(data, scores),
        "images": len(data.open(split)),
        "official_images": data.official(split),
        "pixels": scores["pixels"],
        "semi": identity.get("semi"),
        "network": identity.get("network") or next(iter(identity.get("networks", [])), None),
        "others": {each: judged(data, found) for each, found in scores.get("others", {}).items()},
        "labelled": identity.get("labelled"),
        "seed": identity["seed"],
        "iterations": iterations,
        "parameters": sum(each.numel() for each in module.evaluated.parameters()),
        "inference_parameters": inference_parameters(
            module if identity.get("released") else row.but(model=identity["model"]),
            module.num_classes,
        ),
        "hardware": runs.hardware(),
        "precision": module.recipe.precision,
        "commit": runs.commit(),
        "versions": runs.versions(),
        "date": date.today().isoformat(),
        "departures": identity["departures"],
        "overrides": identity["overrides"],
        "model": identity.get("evaluated_with", {}),
        "published": published_of(module),
        "released": identity.get("released"),
        "port": identity.get("port", False),
        "checkpoint": None,
        "seconds": None,
        "cpu_seconds": None,
        "smoke": identity["smoke"],
        "finished": bool(identity.get("released"))
        or (not identity["smoke"] and iterations >= module.recipe.iterations),
    }


def published_of(module: SegmentationModule) -> list[dict[str, Any]]:
    """The row's figures; a released checkpoint brings those of whoever trained it."""
    row = experiment(module.identity["experiment"])
    return module.identity.get("published", [figure.as_dict() for figure in row.published])


def judged(data: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The scores of a confusion matrix, per class by name; `miou` as torchmetrics gave it."""
    named_scores = {each: dict(zip(data.class_names, found[each])) for each in ("iou", "accuracy")}
    whole = {
        each: found[each]
        for each in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    }
    return (
        whole | named_scores | categories(torch.tensor(found["confusion"]), data.labels.categories)
    )


def categories(confusion: torch.Tensor, groups: tuple[str, ...]) -> dict[str, Any]:
    found = scores(confusion, groups)
    return {each: found[each] for each in ("category_miou", "categories") if each in found}


def fresh(folder: Path, stem: str, suffix: str = "") -> Path:
    """A name that nothing has yet: evaluations are never overwritten."""
    stem = "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in stem)
    path, count = folder / f"{stem}{suffix}", 1
    while path.exists():
        path, count = folder / f"{stem}-{count}{suffix}", count + 1
    return path
