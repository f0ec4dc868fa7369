"""Build data, network and starting weights out of resolved values."""

from dataclasses import fields, replace
from pathlib import Path
from types import MethodType

import torch
from lightning import seed_everything

import datamodules
from datamodules.module import SegmentationData
from datamodules.sampling.crops import Crop
from experiments.command_line.errors import UserError
from experiments.command_line.networks import RELEASED, ReleasedCheckpoint, parse_network
from experiments.command_line.values import PLACES, Resolved, departures
from segmodels.checkpoint import start_from
from segmodels.identity import Identity
from segmodels.module import SegmentationModule
from segmodels.paper import experiment
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.weights import best_named, read, unwrapped, without_prefixes
from segmodels.recipe import Recipe
from segmodels.released import from_released
from segmodels.semisup import method

# The fields of a recipe that the data module needs.
CROP = tuple(field.name for field in fields(Crop) if field.name != "size")
SEEN = ("crop", *CROP, "batch", "iterations")


# --- building


def open_data(resolved: Resolved, seed: int) -> SegmentationData:
    kind = datamodules.dataset(resolved.data_name)
    recipe = Recipe(**resolved.recipe)  # a run of before has the default of what came later
    seen = {name: getattr(recipe, name) for name in SEEN}
    semi = resolved.semi_name != "none"
    data = kind(
        **resolved.data, **seen, accumulate=resolved.trainer["accumulate"], seed=seed, semi=semi
    )
    data.setup("fit")
    data.part(labelled=True)  # refuses a part that cannot be had
    return data


def settle_precision(resolved: Resolved) -> None:
    """ "auto" is bfloat16 where the hardware computes in it, else float32. A network that is compiled
    for a CPU computes in float32: in bfloat16 torch 2.15 gives BiSeNet gradients that are no numbers."""
    if resolved.recipe["precision"] == "auto":
        accelerator, compiled = resolved.trainer["accelerator"], resolved.trainer["compile"]
        half = computes_bfloat16(accelerator) and not (compiled and on_cpu(accelerator))
        resolved.recipe["precision"] = "bf16-mixed" if half else "32-true"
        resolved.departures = departures(resolved)


def on_cpu(accelerator: str) -> bool:
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not gpu)


def computes_bfloat16(accelerator: str) -> bool:
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    return (
        accelerator in ("auto", "cpu")
        and info.exists()
        and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    )


def class_weights(resolved: Resolved, data: SegmentationData) -> dict[str, tuple[float, ...]]:
    """The numbers that a rule comes to in these labels, for the recipe and for config.json; nothing where a recipe has no rule."""
    rule = resolved.recipe["class_weights"]
    return {"class_weights": data.class_weights(rule)} if isinstance(rule, str) else {}


def build(
    resolved: Resolved, data: SegmentationData, seed: int, new: bool
) -> tuple[SegmentationModule, str]:
    """The module, and what its weights start from in words; those of a resumed run come from its
    checkpoint later. The departures of a new one know what a file held."""
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
        if resolved.trainer["channels_last"]:
            network.to(memory_format=torch.channels_last)
        if resolved.trainer["compile"]:
            compile_parts(network)
        return network

    if resolved.semi_name == "none":
        module = make()
    else:
        module = method(resolved.semi_name)(make, **resolved.semi)
        module.seed = seed
    data.label_maps = module.label_maps
    words, start = starts[0]
    if new:
        resolved.departures = departures(resolved, start)
        module.identity = replace(module.identity, departures=resolved.departures)
    return module, words


def compile_parts(network: SegmentationModule) -> None:
    """Compile what training, evaluation and every method call. As methods of this network, so that
    its copies compute with weights of their own."""
    for name in ("features", "decode", "auxiliary_outputs"):
        function = torch.compile(getattr(type(network), name))
        setattr(network, name, MethodType(function, network))


def identity(resolved: Resolved, data: SegmentationData, seed: int) -> Identity:
    """What a checkpoint carries besides weights and recipe: enough to build, name and compare the network without its run folder."""
    changed = {
        name: resolved.value(name)
        for name, origin in resolved.origins.items()
        if origin == "command line" and "trainer." not in name
    }
    semi = None
    networks: list[str] = []
    if resolved.semi_name != "none":
        changed["semi"] = resolved.semi_name
        semi = {"method": resolved.semi_name, **resolved.semi}
        networks = list(method(resolved.semi_name).networks)
    places = {f"data.{place}" for place in PLACES}  # of this machine
    overrides = {name: value for name, value in changed.items() if name not in places}
    return Identity(
        experiment=resolved.experiment,
        model=resolved.model,
        data=resolved.data_name,
        classes=list(data.class_names),
        palette=[list(color) for color in data.palette],
        seed=seed,
        labelled=data.share_of_labels(),
        departures=resolved.departures,
        overrides=overrides | start_named(resolved.init),
        smoke="--smoke" in resolved.origins.values(),
        semi=semi,
        networks=networks,
    )


def start_named(init: str | None) -> dict[str, str]:
    """What was asked for by --init, without the folders of this machine."""
    if init is None:
        return {}
    return {"init": init.partition("=")[0] if init.startswith(RELEASED) else Path(init).name}


def initialize(module: SegmentationModule, resolved: Resolved) -> tuple[str, str]:
    """What the weights start from, in words, and as departures call it."""
    starts_from, init = resolved.entry["starts_from"], resolved.start
    if init == "scratch":
        return "scratch" + hint(resolved), init
    if init == "imagenet":
        if starts_from in (None, "scratch"):
            raise UserError(
                f"{resolved.experiment} starts from scratch: no ImageNet weights are named for it"
            )
        return module.load_pretrained(starts_from), "ImageNet"
    source = parse_network(init)
    if isinstance(source, ReleasedCheckpoint):
        words, backbone = released(module, source)
    else:
        words, backbone = from_file(module, source)
    return words, "ImageNet" if backbone else start_named(init)["init"]


def hint(resolved: Resolved) -> str:
    """How to start as the paper does, where scratch is not its way."""
    starts_from = resolved.entry["starts_from"]
    if not resolved.entry["pretrained"]:
        return ""
    if starts_from:
        return f" (the paper starts from ImageNet: --init imagenet loads timm's {starts_from})"
    return (
        " (the paper starts from ImageNet, by weights that no library has: --init FILE loads them)"
    )


def from_file(module: SegmentationModule, file: Path) -> tuple[str, bool]:
    """A checkpoint of this network; or the ImageNet weights of its backbone, none of whose names is
    the network's. In words, and whether they are the backbone's alone."""
    content, own = read(file), module.state_dict()
    given = best_named(without_prefixes(unwrapped(content)), own)
    alike = any(name in own for name in given)
    if "segmodels" in content or alike or module.encoder() is None:
        return start_from(module, file), False
    try:
        return module.load_pretrained(str(file)), True
    except ValueError as problem:
        raise UserError(
            f"{problem}; the authors' weights of a whole network are given as --init released:NAME=FILE"
        ) from None


def released(module: SegmentationModule, source: ReleasedCheckpoint) -> tuple[str, bool]:
    """The authors' weights of a whole network, or of the ImageNet classifier that theirs started
    from. In words, and whether they are the backbone's alone."""
    other = from_released(source.layout, source.file)
    called = f"{source.file} ({source.layout})"
    if isinstance(other, SegmentationModule):
        return start_from(module, other.state_dict(), called), False
    return load_encoder(module.encoder(), other.state_dict(), called=called), True
