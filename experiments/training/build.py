"""Build data, network and starting weights out of resolved values."""

from dataclasses import asdict, replace
from pathlib import Path
from types import MethodType

import torch
from lightning import seed_everything

import datamodules
from datamodules.module import SegmentationData
from experiments.command_line.catalogue import plain
from experiments.command_line.errors import UserError
from experiments.command_line.networks import RELEASED, ReleasedCheckpoint, parse_network
from experiments.command_line.resolved_values import PLACES, Resolved, departures
from experiments.records.trained_networks import released_classes
from segmodels.module import SegmentationModule
from segmodels.network_identity import Identity
from segmodels.own_checkpoints import start_from
from segmodels.paper import experiment, meta_network
from segmodels.parts.precision import settled_precision
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.weight_files import best_named, read, unwrapped, without_prefixes
from segmodels.recipe import Recipe
from segmodels.released_checkpoints import from_released, layouts
from segmodels.semisup import method

# --- building


def open_data(resolved: Resolved, seed: int) -> SegmentationData:
    data = datamodules.dataset(resolved.data_name)(
        **resolved.data,
        **Recipe(**resolved.recipe).data_options(),  # what an older run lacks has its default
        accumulate=resolved.trainer["accumulate"],
        seed=seed,
        semi=resolved.semi_name != "none",
    )
    data.setup("fit")
    data.part(labeled=True)  # refuses a part that does not exist
    return data


def check_network(resolved: Resolved) -> None:
    """Refuse options that the network cannot be built with."""
    meta_network(experiment(resolved.experiment).but(model=resolved.model))


def settle_finetuning(resolved: Resolved) -> None:
    """Replace what --recipe finetune derives from the images and from what the network takes.

    Values of --smoke and of the command line stay.
    """
    data = datamodules.dataset(resolved.data_name)(**resolved.data | {"resident": "no"})
    recipe = Recipe(**resolved.recipe)
    row = replace(experiment(resolved.experiment).but(model=resolved.model), recipe=recipe)
    given = {
        name: value
        for name, value in asdict(recipe).items()
        if resolved.origins[f"recipe.{name}"] in ("--smoke", "command line")
    }
    tuned = plain(asdict(row.finetuned(*data.extent(), **given).recipe))
    changes = {name: value for name, value in tuned.items() if value != resolved.recipe[name]}
    resolved.update("recipe", changes, "--recipe finetune")
    resolved.departures = departures(resolved)


def settle_precision(resolved: Resolved) -> None:
    """Replace "auto" by the precision that it stands for on this machine."""
    machine = resolved.trainer
    network = meta_network(experiment(resolved.experiment).but(model=resolved.model))
    precision = settled_precision(
        resolved.recipe["precision"], network, machine["accelerator"], machine["compile"]
    )
    if precision != resolved.recipe["precision"]:
        resolved.recipe["precision"] = precision
        resolved.departures = departures(resolved)


def class_weights(resolved: Resolved, data: SegmentationData) -> dict[str, tuple[float, ...]]:
    """The numbers that the recipe's rule comes to in these labels, for recipe and config.json."""
    rule = resolved.recipe["class_weights"]
    return {"class_weights": data.class_weights(rule)} if isinstance(rule, str) else {}


def build(
    resolved: Resolved, data: SegmentationData, seed: int, new: bool
) -> tuple[SegmentationModule, str]:
    """The module, and a sentence on what its weights start from.

    A resumed run's weights come from its checkpoint later. A new run's departures say what the file
    of --init held.
    """
    settle_precision(resolved)
    seed_everything(seed, verbose=False)
    row = experiment(resolved.experiment).but(model=resolved.model)
    recipe = Recipe(**resolved.recipe | class_weights(resolved, data))
    known = identity(resolved, data, seed)
    starts: list[tuple[str, str]] = []

    def make() -> SegmentationModule:
        """Draw a network of the row, and start it; a method may ask for several."""
        network = row.build(num_classes=len(data.class_names))
        network.adopt(recipe, row.normalization, known)
        network.seed = seed
        starts.append(initialize(network, resolved) if new else ("", ""))
        if resolved.trainer["compile"]:
            compile_parts(network)
        return network

    if resolved.semi_name == "none":
        module = make()
    else:
        module = method(resolved.semi_name)(make, **resolved.semi)
        module.seed = seed
    module.channels_last = resolved.trainer["channels_last"]
    data.label_maps = module.label_maps
    sentence, start = starts[0]
    if new:
        resolved.departures = departures(resolved, start)
        module.identity = replace(module.identity, departures=resolved.departures)
    return module, sentence


def compile_parts(network: SegmentationModule) -> None:
    """Compile what training, evaluation and every method call.

    As methods of this network, so that its copies compute with weights of their own.
    """
    for name in ("features", "decode", "auxiliary_outputs"):
        function = torch.compile(getattr(type(network), name))
        setattr(network, name, MethodType(function, network))


def identity(resolved: Resolved, data: SegmentationData, seed: int) -> Identity:
    """The identity that a checkpoint stores beside weights and recipe."""
    of_this_machine = [f"data.{place}" for place in PLACES]
    overrides = {}
    for address, origin in resolved.origins.items():
        group, _, name = address.partition(".")
        if origin == "command line" and group != "trainer" and address not in of_this_machine:
            overrides[address] = getattr(resolved, group)[name]
    semi = None
    networks = ()
    if resolved.semi_name != "none":
        overrides["semi"] = resolved.semi_name
        semi = {"method": resolved.semi_name, **resolved.semi}
        networks = method(resolved.semi_name).networks
    if resolved.init is not None:
        overrides["init"] = start_name(resolved.init)
    return Identity(
        experiment=resolved.experiment,
        model=resolved.model,
        data=resolved.data_name,
        classes=list(data.class_names),
        palette=[list(color) for color in data.palette],
        seed=seed,
        labeled=data.share_of_labels(),
        departures=resolved.departures,
        overrides=overrides,
        smoke="--smoke" in resolved.origins.values(),
        semi=semi,
        networks=list(networks),
    )


# --- what weights start from


def start_name(init: str) -> str:
    """The word of --init without the folders of this machine."""
    return init.partition("=")[0] if init.startswith(RELEASED) else Path(init).name


def initialize(module: SegmentationModule, resolved: Resolved) -> tuple[str, str]:
    """Load what the weights start from; a sentence on it, and its name in departures."""
    starts_from = resolved.starts_from
    init = resolved.start
    if init == "scratch":
        return "scratch" + scratch_hint(resolved), init
    if init == "imagenet":
        if starts_from in (None, "scratch"):
            raise UserError(
                f"{resolved.experiment} starts from scratch: no ImageNet weights are named for it"
            )
        return module.load_pretrained(starts_from), "ImageNet"
    source = parse_network(init)
    load = from_authors if isinstance(source, ReleasedCheckpoint) else from_file
    sentence, backbone = load(module, source)
    papers = backbone and not resolved.encoder
    return sentence, "ImageNet" if papers else start_name(init)


def scratch_hint(resolved: Resolved) -> str:
    """A hint at the weights of an encoder, or at the paper's own start, where that is not scratch."""
    timms = f"--init imagenet loads timm's {resolved.starts_from}"
    if resolved.encoder:
        return f" ({timms})"
    if not resolved.entry["pretrained"]:
        return ""
    unknown = "by weights that no library has: --init FILE loads them"
    how = f": {timms}" if resolved.starts_from else f", {unknown}"
    return f" (the paper starts from ImageNet{how})"


def from_file(module: SegmentationModule, file: Path) -> tuple[str, bool]:
    """Load a checkpoint of this network, or ImageNet weights of its backbone, none of whose tensors
    is the network's by name and shape. A sentence on it, and whether it held the backbone alone."""
    content = read(file)
    own = module.state_dict()
    given = best_named(without_prefixes(unwrapped(content)), own)
    fitting = [name for name in own.keys() & given.keys() if own[name].shape == given[name].shape]
    if "segmodels" in content or fitting or module.encoder() is None:
        return start_from(module, file), False
    try:
        return module.load_pretrained(str(file)), True
    except ValueError as problem:
        raise UserError(
            f"{problem}; the authors' weights of a whole network are given as "
            "--init released:NAME=FILE"
        ) from None


def from_authors(module: SegmentationModule, source: ReleasedCheckpoint) -> tuple[str, bool]:
    """Load the authors' weights of a whole network, or of the ImageNet classifier that theirs
    started from. A sentence on it, and whether it held the backbone alone."""
    other = from_released(source.layout, source.file)
    called = f"{source.file} ({source.layout})"
    if isinstance(other, SegmentationModule):
        classes = released_classes(layouts()[source.layout], other.num_classes)
        return start_from(module, other.state_dict(), called, classes), False
    return load_encoder(module.encoder(), other.state_dict(), called=called), True
