"""Evaluate a checkpoint by the code that validates during training, on any split, in any mode."""

from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.module import SegmentationData
from datamodules.reading.sources import Source
from experiments.command_line import files
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import as_user_error, quiet
from experiments.command_line.names import known_name
from experiments.command_line.networks import Checkpoint, ReleasedCheckpoint, folder_of
from experiments.command_line.overrides import data_options
from experiments.command_line.resolved_values import PLACES
from experiments.drawing.label_images import (
    BLACK,
    STRIPED,
    colored,
    colored_prediction,
    occurring,
    save,
    sheet,
)
from experiments.evaluation.failure_images import Shown
from experiments.evaluation.failure_page import failure_page
from experiments.evaluation.image_sizes import mode_of, size_table
from experiments.evaluation.per_image import Examiner, loss_and_confidence, measures
from experiments.evaluation.score import (
    check_classes,
    fresh,
    name_of,
    open_data,
    published_of,
    scope,
    score,
    stored_options,
)
from experiments.records.image_records import Examined
from experiments.records.results import Result
from experiments.records.trained_networks import options_of, trained
from experiments.reports.published_figures import model_words
from experiments.reports.terminal_tables import class_table, protocol_table, published_lines
from segmodels.metrics.bootstrap import interval
from segmodels.module import SegmentationModule
from segmodels.prediction import (
    choose_device,
    predict,
    predicted_strips,
    prepared,
    set_inference,
    set_runtime,
)
from segmodels.recipe import inference_steps

Named = tuple[str, SegmentationModule]


def evaluate(source: Checkpoint, args: Namespace) -> int:
    quiet()
    with as_user_error():
        module, data = open_network(source, args)
        others = [open_other(each, data, args.device) for each in args.beside]
        networks = [(args.inference or module.recipe.inference, module)]
        if args.protocols:
            networks = protocols(source, module, data, args)
        if args.sizes:
            networks = [(mode_of(scale), module) for scale in args.sizes]
    results = []
    for mode, network in networks:
        with as_user_error():
            set_inference(network, mode, args.precision)
            set_runtime(network, args.runtime, args.device)
        result, examined = evaluate_protocol(source, network, data, others, args)
        results.append(result)
    if args.protocols:
        protocol_table(results)
    if args.sizes:
        size_table(args.sizes, results, examined, module, data, args.split)
    return 0


def open_network(
    source: Checkpoint, args: Namespace, labeled: bool = True
) -> tuple[SegmentationModule, SegmentationData]:
    """The network, and the data set to evaluate it on, whose labels may not be needed."""
    choose_device(args.device)  # refused before a checkpoint is read
    module = trained(source, args.which, options_of(source, args.model))
    name = known_name("data set", args.data or module.identity.data, list(catalogue()["data"]))
    options = stored_options(source, module, name) | data_options(name, args.overrides)
    data = open_data(name, options, args.split, source, module, labeled)
    add_overrides(module, data, args)
    return module, data


def add_overrides(module: SegmentationModule, data: SegmentationData, args: Namespace) -> None:
    """Note what the evaluation was given beyond the run's own words."""
    overrides = dict(module.identity.overrides)
    for option, value in data_options(name_of(data), args.overrides).items():
        if option not in PLACES:
            overrides[f"data.{option}"] = value
    if args.which and args.which != module.identity.networks[0]:
        overrides["network"] = args.which  # another network than the method's own choice
    module.identity = replace(module.identity, overrides=overrides)


def evaluate_protocol(
    source: Checkpoint,
    module: SegmentationModule,
    data: SegmentationData,
    others: list[Named],
    args: Namespace,
) -> tuple[Result, Examined]:
    """Score one network in its recipe's mode; print and write all that belongs to the result."""
    examiner = Examiner(data, args.split, args.full)
    result = score(module, data, args.split, examiner)
    heading = title_of(module)
    examined = examiner.examined(f"{heading} {scope(module, data, args.split)}")
    draws = len(examined.names) > 1  # a single image says nothing about another draw of images
    result = replace(
        result,
        interval=list(interval(examined.confusions)) if draws else None,
        checkpoint=name_in_run(source),
        full=measures(examined) if args.full else None,
    )
    class_table(result)
    several = args.protocols or args.sizes
    for line in () if several else published_lines(result):
        print(line)
    for caution in (chosen_here(source, module, data, args.split), data.caution):
        if caution:
            print(caution)
    file = args.out or result_file(source, args, evaluation_name(module, data, args.split))
    records = file.with_suffix(".npz")
    examined.save(records)  # first: a result that names its records has them
    files.write_json(file, replace(result, records=records.name).as_dict())
    print(f"result       {file}")
    images = data.open(args.split)
    if args.pictures and (others or result.released):
        pictures = file.with_suffix(".png")
        networks = [(name, prepared(each)) for name, each in ((heading, module), *others)]
        save(comparison_sheet(networks, images, data, args.pictures), pictures)
        print(f"pictures     {pictures}")
    if args.page:
        page = failure_page(examined, partial(predict_again, prepared(module), images))
        files.write_text(args.page, page)
        print(f"page         {args.page}")
    return result, examined


# --- protocols


def protocols(
    source: Checkpoint, module: SegmentationModule, data: SegmentationData, args: Namespace
) -> list[Named]:
    """The recipe's inference mode and those of the paper, each with the network for it.

    A mode that the paper reports comes with the options that it reports, unless options are given:
    these hold for every mode. What cannot be computed is left out with a sentence.
    """
    settings = {(module.recipe.inference, ""): {}}
    for figure in published_of(module):
        options = {} if args.model else figure.model
        settings.setdefault((figure.protocol, model_words(options)), options)
    networks = {"": module}
    computed = {}  # in order, each once
    for (protocol, words), options in settings.items():
        if words not in networks:
            networks[words] = module
            try:
                network = trained(source, args.which, options)
            except ValueError as problem:
                print(f"the paper also reports {words}, which is left out: {problem}")
            else:
                add_overrides(network, data, args)
                if network.identity.evaluated_with:  # else it was trained with these options
                    networks[words] = network
        try:
            inference_steps(protocol)
        except ValueError:
            print(
                f'the paper also reports "{protocol}", which no inference mode computes: '
                "it is left out"
            )
            continue
        computed[protocol, networks[words]] = None
    return list(computed)


# --- names


def evaluation_name(module: SegmentationModule, data: SegmentationData, split: str) -> str:
    """The part of a file's name that says what was evaluated, and how."""
    options = [f"{name}={value}" for name, value in module.identity.evaluated_with.items()]
    return "-".join([name_of(data), split, module.recipe.inference, *options])


def result_file(
    source: Checkpoint,
    args: Namespace,
    about: str,
    kind: str = "evaluation",
    released_name: str = "result.json",
) -> Path:
    """A new file beside a run's checkpoint; in a new folder of its own for a released one."""
    if isinstance(source, Path):
        parts = [kind, source.stem, args.which, about]
        return fresh(source.parent, "-".join(filter(None, parts)), ".json")
    folder = fresh(args.runs, f"released-{source.layout}-{about}")
    folder.mkdir(parents=True)
    return folder / released_name


def name_in_run(source: Checkpoint) -> str:
    """The checkpoint, without the folders of this machine."""
    if isinstance(source, ReleasedCheckpoint):
        return source.file.name
    return str(source.relative_to(folder_of(source)))


def chosen_here(
    source: Checkpoint, module: SegmentationModule, data: SegmentationData, split: str
) -> str:
    """A sentence where the weights were chosen by their score on these images."""
    best = isinstance(source, Path) and source.name == "best.ckpt"
    if not best or (name_of(data), split) != (module.identity.data, "val"):
        return ""
    return (
        "the best checkpoint was chosen by its score on these images; "
        "--checkpoint last evaluates the run's last one"
    )


def title_of(module: SegmentationModule, otherwise: str = "") -> str:
    identity = module.identity
    note = f"released {identity.released}" if identity.released else otherwise
    return f"{identity.experiment} ({note})" if note else identity.experiment


# --- pictures


def open_other(source: Checkpoint, data: SegmentationData, device: str) -> Named:
    """A second network to look at, in its own recipe's inference mode."""
    module = trained(source)
    check_classes(source, module, data)
    set_inference(module, None, None)
    set_runtime(module, "torch", device)
    return title_of(module, "trained here"), module


def comparison_sheet(
    networks: list[Named], source: Source, data: SegmentationData, count: int
) -> Image.Image:
    """Some images spread over the split: image, truth, and what each network predicts."""
    palette = data.palette
    rows = []
    labels = []
    for index in indexes_across(source, count):
        image, label = source.window(index)
        row = [image, colored(label, palette)]
        labels.append(label)
        for _, module in networks:
            predicted = predict(module, image)
            row.append(colored_prediction(predicted, label, palette))
            labels.append(predicted)
        rows.append(row)
    key = occurring(labels, data.class_names, palette)
    heads = ("image", "truth", *(name for name, _ in networks))
    title = f"{len(rows)} of {len(source)} images ({BLACK}; {STRIPED})"
    return sheet(rows, heads, title, width=512, smooth=(0,), key=key)


def indexes_across(source: Source, count: int) -> list[int]:
    """So many of its images from first to last, at most all."""
    last = len(source) - 1
    return np.linspace(0, last, min(count, len(source))).round().astype(int).tolist()


def predict_again(module: SegmentationModule, source: Source, index: int) -> Shown:
    """One image with what the network predicts and how sure it is."""
    image, label = source.window(index)
    with predicted_strips(module, [image]) as strips:
        predicted = strips.argmax()[0]
        _, confidence = loss_and_confidence(strips, torch.from_numpy(label).to(module.device))
    return Shown(image, label, predicted.cpu().numpy(), confidence.float().cpu().numpy())
