"""The recipe of a training: the settings of a paper's "implementation details" paragraph."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import ceil, inf, isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

PASSES, LEAST_STEPS = 40, 200  # of a fine-tuning
ClassWeights = Literal["median_frequency"]  # rules that count the training labels


@dataclass(frozen=True)
class Recipe:
    """The settings that a network is trained and evaluated with.

    Sizes are (height, width); `batch` counts images over all devices.
    """

    # the crops
    crop: tuple[int, int] = (1024, 1024)
    scales: tuple[float, ...] = (1.0,)
    # any scale between the first and the last one instead of one of the set
    continuous: bool = False
    flip: float = 0.5
    jitter: float = 0.0
    hue: float = 0.0  # share of the color circle: with the jitter, turned by up to this either way
    # a crop in which one class has this share or more is drawn again; 1 takes any crop
    cat_max_ratio: float = 1.0
    class_uniform: float = 0.0  # share of an epoch's crops that show each class equally often
    rotation: float = 0.0  # degrees: turned about the image's center by an angle within +- this
    rotation_chance: float = 1.0
    shift: float = 0.0  # pixels: moved down and right by numbers within +- this
    elastic: float = 0.0  # pixels: standard deviation of displacements on a 3 x 3 grid of the crop
    blur: str = "none"  # Gaussian: kernel:5, its side in pixels, or sigma:0.15,1.3, a range
    blur_chance: float = 1.0
    padding: Literal["mean", "black", "mirror"] = "mean"  # what a crop shows beyond its image
    batch: int = 16
    iterations: int = 80_000
    # the training
    loss: str = "cross_entropy"  # of every pixel, or of the hard ones by a code line's rule
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    head_lr: float = 1.0  # times lr, for everything outside the pretrained backbone
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norms: bool = True  # False: norms and biases are not decayed
    schedule: Literal["poly", "cosine", "constant", "step"] = "poly"
    power: float = 0.9
    min_lr: float = 0.0
    warmup: int = 0
    warmup_from: float = 0.0  # share of lr at step 0
    warmup_shape: Literal["linear", "geometric"] = "linear"
    class_weights: tuple[float, ...] | ClassWeights = ()
    clip: float = 0.0
    ema: float = 0.0  # decay of the running average of weights; 0 switches it off
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "auto"] = "32-true"
    # share of each batch in the averages of batch norm; 0: the network's own
    norm_momentum: float = 0.0
    sync_bn: bool = True
    # the evaluation
    inference: str = "whole"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Recipe).items():
            value = getattr(self, name)
            kinds = {get_origin(each) for each in (hint, *get_args(hint))}
            if tuple in kinds and not isinstance(value, str):  # JSON brings lists
                object.__setattr__(self, name, tuple(value))
        for name, (allowed, words) in LIMITS.items():
            value = getattr(self, name)
            finite = in_range(value)
            if not (finite and allowed(value)):
                words += "" if finite else ", and finite"
                raise ValueError(f"recipe.{name} is {value}; it must be {words}")
        if self.min_lr > self.lr:
            raise ValueError(
                f"recipe.min_lr is {self.min_lr}; it must be no more than recipe.lr, {self.lr}"
            )
        if self.warmup and self.warmup_shape == "geometric" and not self.warmup_from:
            raise ValueError(
                "recipe.warmup_from is 0, which a geometric warm-up never leaves; it must be "
                "above 0"
            )
        inference_steps(self.inference)
        loss_settings(self.loss)

    def data_options(self) -> dict[str, Any]:
        """Return the fields that a data module takes: its crops, its batch and its length."""
        return {name: getattr(self, name) for name in OF_DATA}

    def finetuned(self, images: int, crop: tuple[int, int], /, **given: Any) -> "Recipe":
        """Return this recipe as a short training on so many images, from trained weights.

        It takes a tenth of the learning rate, since large steps would forget what is known, and
        sees each image `PASSES` times, in no fewer steps than a new class needs and in no more than
        this recipe has. A tenth of the steps warm up, while the optimizer and new rows of heads
        settle, and a running average of weights reaches back no further. `given` holds fields that
        are decided already.
        """
        passes = PASSES * images / given.get("batch", self.batch)
        steps = given.get("iterations", min(max(ceil(passes), LEAST_STEPS), self.iterations))
        derived = {
            "crop": crop,
            "iterations": steps,
            "lr": self.lr / 10,
            "min_lr": self.min_lr / 10,
            "warmup": steps // 10,
            "ema": min(self.ema, max(0.0, 1 - 10 / steps)),
        }
        return replace(self, **derived | given)


# Fields that a data module takes by the same names
OF_DATA = (
    "crop",
    "scales",
    "continuous",
    "flip",
    "jitter",
    "hue",
    "cat_max_ratio",
    "class_uniform",
    "rotation",
    "rotation_chance",
    "shift",
    "elastic",
    "blur",
    "blur_chance",
    "padding",
    "batch",
    "iterations",
)


def validation_interval(steps: int) -> int:
    """Return after how many optimizer steps a training of this length validates."""
    return min(4000, max(1, steps // 5))


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Make a recipe of a stored dict; unknown names are errors, missing ones have defaults."""
    known = {field.name for field in fields(Recipe)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"a recipe has no field {', '.join(unknown)}; its fields are {', '.join(sorted(known))}"
        )
    return Recipe(**values)


def in_range(value: Any, least: float = -inf) -> bool:
    """Return whether all numbers in a value are finite and none is below `least`.

    Words and None hold no numbers.
    """
    values = value if isinstance(value, (list, tuple)) else (value,)
    numbers = [each for each in values if isinstance(each, (int, float))]
    return all(isfinite(each) and each >= least for each in numbers)


def is_blur(text: str) -> bool:
    """Return whether a text names a blur: "kernel:5", "sigma:0.15,1.3" or "none"."""
    name, _, argument = text.partition(":")
    if name == "kernel" and re.fullmatch(SIDE, argument):
        return int(argument) >= 3 and int(argument) % 2 == 1
    if name == "sigma" and re.fullmatch(f"{NUMBER},{NUMBER}", argument):
        low, high = map(float, argument.split(","))
        return low <= high
    return text == "none"


def are_class_weights(value: tuple[float, ...] | str) -> bool:
    if isinstance(value, str):
        return value in get_args(ClassWeights)
    return not value or min(value) >= 0


NUMBER = r"(?=[\d.]*[1-9])\d*\.?\d+"  # above 0
WEIGHT = r"\d*\.?\d+"
SIDE = r"[1-9]\d*"

LIMITS = {
    "crop": (lambda v: len(v) == 2 and min(v) >= 1, "height x width in pixels, such as 512x1024"),
    "scales": (
        lambda v: len(v) >= 1 and min(v) > 0 and list(v) == sorted(v),
        "positive numbers that rise, such as 0.5,1,2",
    ),
    "flip": (lambda v: 0 <= v <= 1, "a probability"),
    "jitter": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "hue": (lambda v: 0 <= v <= 0.5, "a share of the color circle, from 0 to 0.5"),
    "cat_max_ratio": (lambda v: 0 < v <= 1, "a share above 0, with 1 for any crop"),
    "class_uniform": (lambda v: 0 <= v <= 1, "a share of an epoch's crops"),
    "rotation": (lambda v: 0 <= v <= 180, "degrees from 0 to 180"),
    "rotation_chance": (lambda v: 0 <= v <= 1, "a probability"),
    "shift": (lambda v: v >= 0, "a number of pixels, or 0 for none"),
    "elastic": (lambda v: v >= 0, "a number of pixels, or 0 for none"),
    "blur": (is_blur, "none, kernel:5 (an odd side of pixels) or sigma:0.15,1.3"),
    "blur_chance": (lambda v: 0 <= v <= 1, "a probability"),
    "batch": (lambda v: v >= 1, "at least 1"),
    "iterations": (lambda v: v >= 1, "at least 1"),
    "lr": (lambda v: v > 0, "above 0"),
    "head_lr": (lambda v: v > 0, "above 0, for it multiplies recipe.lr"),
    "momentum": (lambda v: 0 <= v < 1, "from 0 to below 1"),
    "weight_decay": (lambda v: v >= 0, "at least 0"),
    "power": (lambda v: v > 0, "above 0"),
    "min_lr": (lambda v: v >= 0, "at least 0"),
    "warmup": (lambda v: v >= 0, "a number of steps, or 0 for none"),
    "warmup_from": (lambda v: 0 <= v <= 1, "a share of recipe.lr"),
    "clip": (lambda v: v >= 0, "a length of the gradient, or 0 for none"),
    "norm_momentum": (lambda v: 0 <= v <= 1, "a share of each batch, or 0 for the network's own"),
    "ema": (lambda v: 0 <= v < 1, "a decay below 1, or 0 for none"),
    "class_weights": (are_class_weights, "one number per class, median_frequency, or () for none"),
}

# Budgets, by data set, of a paper whose norms average over thousands of steps: there are fewer here.
FEW_STEPS = {data: {"norm_momentum": 0.1} for data in ("streets", "cells", "folder")}

SIZE = f"{SIDE}x{SIDE}"
MODES = {
    "whole": ("", "whole"),
    "flip": ("", "flip"),
    "resized": (NUMBER, "resized:0.5"),
    "slide": (f"{SIZE}(/{SIZE})?", "slide:769x769 or slide:769x769/513x513 (window/stride)"),
    "multiscale": (f"{NUMBER}(,{NUMBER})*", "multiscale:0.75,1,1.25"),
    "tiles": (SIZE, "tiles:388x388 (for networks that lose a margin)"),
    "stitch": (SIDE, "stitch:8 (the network's stride)"),
    # steps; weight, pixels and color levels of the appearance kernel; weight and pixels of the other
    "crf": (
        f"{SIDE}(,{WEIGHT},{NUMBER},{NUMBER},{WEIGHT},{NUMBER})?",
        "crf:10 or crf:10,4,67,3,3,1",
    ),
}


def inference_steps(text: str) -> list[tuple[str, str]]:
    """Split "multiscale:0.75,1+flip+slide:769x769" into (mode, argument) pairs, outermost first."""
    steps = [tuple(step.partition(":")[::2]) for step in text.split("+")]
    for name, argument in steps:
        if name not in MODES or not re.fullmatch(MODES[name][0], argument):
            allowed = "; ".join(example for _, example in MODES.values())
            raise ValueError(
                f"{':'.join(filter(None, (name, argument)))} is no inference mode; there are "
                f"{allowed}, joined by +"
            )
        if name == "slide" and "/" in argument:
            window, stride = (size.split("x") for size in argument.split("/"))
            if any(int(step) > int(side) for step, side in zip(stride, window)):
                raise ValueError(
                    f"slide:{argument} would skip pixels: a stride may not be larger than its "
                    "window"
                )
    for name, argument in steps[:-1]:
        if name in ("tiles", "stitch"):
            raise ValueError(f"{text} looks at a part in another way; {name}:{argument} comes last")
    if "crf" in [name for name, _ in steps[1:]]:
        raise ValueError(f"{text} would go on after the CRF; crf:... comes first")
    return steps


AMOUNT = rf"(0?\.\d+|{SIDE}/{SIDE}|\d+)"  # a share of the pixels, or a number of them
HARD = rf"{NUMBER},{AMOUNT}"
LOSSES = {
    "cross_entropy": (
        "(all|sum)?",
        "cross_entropy",
        "cross_entropy:all (divided by ignored pixels too)",
        "cross_entropy:sum (divided by nothing)",
    ),
    "torchseg_ohem": (HARD, "torchseg_ohem:0.7,1/16 (threshold, least share or number)"),
    "hrnet_ohem": (HARD, "hrnet_ohem:0.9,1/48"),
    "ccnet_ohem": (HARD, "ccnet_ohem:0.7,100000"),
    "openseg_ohem": (HARD, "openseg_ohem:0.7,1/16"),
    "stdc_ohem": (HARD, "stdc_ohem:0.7,1/16"),
    "mmseg_ohem": (rf"{NUMBER},\d+", "mmseg_ohem:0.7,10000 (threshold, least number per image)"),
    "coincheung_ohem": (NUMBER, "coincheung_ohem:0.7"),
}


def loss_settings(text: str) -> tuple[str, tuple[str, ...]]:
    """Split "hrnet_ohem:0.9,1/48" into its name and its arguments."""
    name, colon, argument = text.partition(":")
    known = name in LOSSES and re.fullmatch(LOSSES[name][0], argument)
    if not known or bool(colon) != bool(argument):
        examples = [each for _, *some in LOSSES.values() for each in some]
        raise ValueError(f"recipe.loss is {text}; there are {'; '.join(examples)}")
    settings = tuple(argument.split(",")) if argument else ()
    if name.endswith("_ohem") and (float(settings[0]) > 1 or any(map(is_more, settings[1:]))):
        raise ValueError(
            f"recipe.loss is {text}; a threshold is a probability, and a share of the pixels "
            "at most 1"
        )
    return name, settings


def is_more(kept: str) -> bool:
    """Return whether a share such as "3/2" is more than all pixels."""
    part, _, whole = kept.partition("/")
    return bool(whole) and int(part) > int(whole)
