"""`SegmentationModule`: the interface of every paper's network, and its training and evaluation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from segmodels import inference_modes
from segmodels.averaged_weights import AveragedWeights
from segmodels.folding import fast_form
from segmodels.metrics import JaccardIndex, scores
from segmodels.network_identity import Identity
from segmodels.parts import losses, schedules
from segmodels.parts.layers import is_of_a_norm, keep_statistics, with_momentum
from segmodels.parts.precision import check_bfloat16
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.resize import compute_dtype, mirrored, upsampled_rows
from segmodels.recipe import Recipe, recipe_from

# image (B, 3, H, W) uint8, or float when already normalized; label (B, H, W), 255 ignored; if a
# paper has label_maps, maps (B, H, W) by name
Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Mapping[str, Tensor]]
FROM_PYTHON = ["trained from Python, where departures are not listed"]
Features = Any  # whatever the heads read: a tensor, a list, a NamedTuple


@dataclass(frozen=True)
class Normalization:
    """The normalization of uint8 RGB images that a network expects.

    It belongs to a row or a released layout, not to the state dict.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    order: str = "RGB"
    scale: float = 255.0  # pixels are divided by it first


class SegmentationModule(LightningModule):
    """A segmentation network with its training and evaluation: image -> features -> logits.

    In training a network has auxiliary outputs too, and its criterion makes losses of all outputs.
    A paper writes `features`, and those of `decode`, `auxiliary_outputs`, `criterion`, `lr_scale`,
    `decays` and `valid_side` that differ from the ones below. A batch and `module(image)` may hold
    uint8 RGB or normalized floats; `features`, `logits` and `outputs` take normalized floats.
    """

    align_corners = False  # of the upsampling from logits to the image's size
    multiple = 1  # heights and widths are padded to a multiple of this
    margin = 0  # pixels that a network without padding loses on every side
    auxiliary_weight = 1.0  # of every output but "main"
    without_gradient: tuple[str, ...] = ()  # parameters that no loss reaches
    frozen_norms = False  # while training, norms keep their averages and learn at rate 0
    channels_last = True  # memory format while training: faster, and rounded otherwise
    recipe = Recipe()  # until `adopt` sets a row's
    normalization = Normalization()
    runtime = "torch"  # that computes an evaluation, or "onnxruntime"
    computes_on = "auto"  # the device of an evaluation: "auto", "cpu", "cuda" or "mps"
    # label (H, W) -> {name: map (H, W)}, as numpy: made by the threads that make crops
    label_maps: Callable[[Any], dict[str, Any]] | None = None

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.identity = Identity()
        self.seed = 0
        self.confusion = JaccardIndex(num_classes)
        self.evaluation_loss = MeanMetric(nan_strategy="disable")
        self.warned = False  # of images that look like pixels, once
        self.scores: dict[str, Any] = {}  # of the last validation or test
        # the copy that computes an evaluation; torch registers no network in a tuple
        self.fast: tuple[SegmentationModule, ...] = ()
        self.watched: dict[str, Tensor] = {}  # numbers to log beside the losses of a step
        self.micro_batches: list[dict[str, Tensor]] = []  # the numbers of a step's passes so far
        self.pass_weights: list[Tensor] = []  # the weight of each of these passes
        # (kind, label, weights) of every pixel_loss in a pass
        self.means: list[tuple[str, Tensor, Tensor | None]] | None = None

    def adopt(self, recipe: Recipe, normalization: Normalization, identity: Identity) -> None:
        """Take over a row's recipe; the constructor has only the network's own options."""
        counted = isinstance(recipe.class_weights, str)  # later, in the training labels
        if recipe.class_weights and not counted and len(recipe.class_weights) != self.num_classes:
            raise ValueError(
                f"recipe.class_weights has {len(recipe.class_weights)} numbers for "
                f"{self.num_classes} classes; give one per class, or recipe.class_weights=() for "
                "none"
            )
        if recipe.norm_momentum:
            with_momentum(self, recipe.norm_momentum)
        self.recipe = recipe
        self.normalization = normalization
        self.identity = identity
        # The constructor's arguments by their names, and apart from them what they do not say
        row = {
            "experiment": identity.experiment,
            "recipe": asdict(recipe),
            "normalization": asdict(normalization),
        }
        arguments = {"num_classes": self.num_classes, **identity.model}
        self.save_hyperparameters(arguments | {"row": row})

    @property
    def lr(self) -> float:
        """The rate of the recipe, by the name that Lightning's LearningRateFinder looks for."""
        return self.recipe.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.recipe = replace(self.recipe, lr=value, min_lr=min(self.recipe.min_lr, value))

    # --- the network: methods that a paper writes

    def features(self, image: Tensor) -> Features:
        """Compute everything that the heads read.

        Semi-supervised methods perturb it, so it should end early in the network.
        """
        raise TypeError(f"{type(self).__name__} does not say how its features are computed")

    def decode(self, features: Features) -> Tensor:
        """Return logits at the network's own resolution, as the authors' code does."""
        return self.classifier(features)

    def auxiliary_outputs(self, features: Features) -> dict[str, Tensor]:
        """Return the outputs that exist for training alone, by the paper's names."""
        return {}

    def criterion(
        self, outputs: Mapping[str, Tensor], label: Tensor, **maps: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms of the loss, already weighted."""
        terms = {}
        for name, logits in outputs.items():
            weight = 1.0 if name == "main" else self.auxiliary_weight
            terms[name] = weight * self.pixel_loss(logits, label, **maps)
        return terms

    def pixel_loss(
        self, logits: Tensor, label: Tensor, kind: str | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the recipe's loss, or one of another `kind`, of logits at any resolution.

        `weights` holds one number per pixel.
        """
        kind = kind or self.recipe.loss
        if self.means is not None:
            self.means.append((kind, label, weights))
        return losses.pixel_loss(
            kind,
            logits,
            label,
            align_corners=self.align_corners,
            class_weights=self.class_weights,
            weights=weights,
        )

    def valid_side(self, side: int) -> int:
        """Return the smallest height or width, no less than `side`, that the network takes."""
        return side + -side % self.multiple

    def valid_side_within(self, side: int) -> int:
        """Return the largest height or width, no more than `side`, that the network takes.

        Below the smallest one that it takes, it is that one.
        """
        possible = range(side, 2 * self.margin, -1)
        return next(
            (each for each in possible if self.valid_side(each) == each), self.valid_side(side)
        )

    # --- the network: methods that no paper overrides

    def logits(self, image: Tensor) -> Tensor:
        """Return logits at the network's own resolution, as the authors' code does."""
        return self.decode(self.features(image))

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """Return "main" and every auxiliary output of one pass."""
        features = self.features(image)
        return {"main": self.decode(features), **self.auxiliary_outputs(features)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted loss terms of a batch by name."""
        image, label, *rest = batch
        maps = {name: self.inside(each) for name, each in rest[0].items()} if rest else {}
        outputs = self.outputs(self.normalized(image))
        return self.criterion(outputs, self.inside(label), **maps)

    def forward(self, image: Tensor, network: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return logits at the image's size, for any height and width.

        It uses plain operations only, so that it can be exported. `network` may replace `logits`.
        """
        height, width = image.shape[-2:]
        padded = self.padded(self.normalized(image))
        logits = (network or self.logits)(padded)
        logits = logits.to(compute_dtype(logits))  # half precision would tie neighboring classes
        size = self.inner_size(padded)
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)
        return logits[..., :height, :width]

    def strips(self, image: Tensor) -> inference_modes.Strips:
        """Return the logits of `forward` as strips, made a block of rows at a time on demand."""
        padded = self.padded(self.normalized(image))
        return self.inner_strips(padded).cropped(tuple(image.shape[-2:]))

    def inner_strips(self, padded: Tensor) -> inference_modes.Strips:
        """Return the logits of a normalized image that is padded already, as strips."""
        return self.at_size(self.logits(padded), self.inner_size(padded))

    def at_size(self, logits: Tensor, size: tuple[int, int]) -> inference_modes.Strips:
        """Return logits at another size, made a block of rows at a time."""
        logits = logits.to(compute_dtype(logits))  # half precision would tie neighboring classes

        def rows(top: int, bottom: int) -> Tensor:
            return upsampled_rows(logits, size, top, bottom, self.align_corners)

        return inference_modes.Strips(size, rows)

    def normalized(self, image: Tensor) -> Tensor:
        """Normalize uint8 RGB on the image's device; floats count as normalized already."""
        if image.dtype != torch.uint8:
            return image
        settings = self.normalization
        mean = torch.tensor(settings.mean, device=image.device).view(3, 1, 1)  # per channel
        std = torch.tensor(settings.std, device=image.device).view(3, 1, 1)  # per channel
        image = image.flip(1) if settings.order == "BGR" else image
        # In place: a large image is held once, not three times.
        return image.to(mean.dtype).div_(settings.scale).sub_(mean).div_(std)

    def as_pixels(self, image: Tensor) -> Tensor:
        """Turn normalized (B, 3, H, W) back into uint8 RGB."""
        if image.dtype == torch.uint8:
            return image
        settings = self.normalization
        mean = torch.tensor(settings.mean, device=image.device).view(3, 1, 1)  # per channel
        std = torch.tensor(settings.std, device=image.device).view(3, 1, 1)  # per channel
        pixels = ((image * std + mean) * settings.scale).round().clamp(0, 255).to(torch.uint8)
        return pixels.flip(1) if settings.order == "BGR" else pixels

    def padded(self, image: Tensor) -> Tensor:
        """Pad a normalized image to a size that the network takes.

        It grows on the right and at the bottom by zeros, the mean. For a network with a margin the
        image is mirrored on all sides instead.
        """
        height, width = (side + 2 * self.margin for side in image.shape[-2:])
        down = self.valid_side(height) - height
        right = self.valid_side(width) - width
        if self.margin:
            rows = (self.margin, self.margin + down)
            return mirrored(image, rows, (self.margin, self.margin + right))
        if statically_known_true(down == 0) and statically_known_true(right == 0):
            return image
        return F.pad(image, (0, right, 0, down))

    def inner_size(self, padded: Tensor) -> tuple[int, int]:
        """Return a padded image's size without the margin."""
        height, width = padded.shape[-2:]
        return height - 2 * self.margin, width - 2 * self.margin

    def inside(self, pixels: Tensor) -> Tensor:
        """Cut the margin, for which there are no logits, off (B, H, W)."""
        if not self.margin:
            return pixels
        return pixels[:, self.margin : -self.margin, self.margin : -self.margin]

    @property
    def evaluated(self) -> "SegmentationModule":
        """The network that is evaluated and used: this one, or the first that a method trains."""
        return self

    def to_onnx(self, *args: Any, **kwargs: Any) -> Any:
        """Write the network as it is in eval mode; Lightning's own takes the mode it is in."""
        mode = self.training
        self.eval()
        try:
            return super().to_onnx(*args, **kwargs)
        finally:
            self.train(mode)

    # --- training

    def train(self, mode: bool = True) -> "SegmentationModule":
        """Set the mode of all layers; frozen norms are evaluated in training too."""
        super().train(mode)
        if self.frozen_norms:
            keep_statistics(self)
        return self

    def configure_callbacks(self) -> list[Callback]:
        """Average the weights if the recipe does, unless the trainer does so already."""
        given = any(isinstance(each, AveragedWeights) for each in self.trainer.callbacks)
        return [] if given or not self.recipe.ema else [AveragedWeights(decay=self.recipe.ema)]

    def setup(self, stage: str) -> None:
        """Settle what a training needs to know of its trainer and its data."""
        if stage != "fit":
            return
        if self.device.type == "cpu" and str(self.trainer.precision).startswith("bf16"):
            check_bfloat16(self)
        self.freeze_unreached()
        for layer in self.modules():  # the mode of each is set when the training starts
            layer.training = True
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        if self.recipe.precision == "auto":
            self.recipe = replace(self.recipe, precision=self.trainer.precision)
        data = self.trainer.datamodule
        if self.identity.departures in (None, FROM_PYTHON) and hasattr(data, "share_of_labels"):
            self.identity = self.trained_on(data)
        if hasattr(data, "label_maps"):
            data.label_maps = self.label_maps
        if isinstance(self.recipe.class_weights, str) and hasattr(data, "class_weights"):
            weights = data.class_weights(self.recipe.class_weights)
            self.recipe = replace(self.recipe, class_weights=weights)

    def trained_on(self, data: Any) -> Identity:
        """Return what a checkpoint says of a training that no run folder describes."""
        return replace(
            self.identity,
            data=type(data).__name__.lower(),
            classes=list(data.class_names),
            palette=[list(color) for color in data.palette],
            seed=self.seed,
            labeled=data.share_of_labels(),
            departures=FROM_PYTHON,
            overrides={},
            smoke=False,
        )

    def freeze_unreached(self) -> None:
        """Freeze the parameters in `without_gradient`, nested networks included.

        With several devices, DDP waits for the gradient of every parameter that is not frozen.
        """
        for network in self.modules():
            if isinstance(network, SegmentationModule):
                for name in network.without_gradient:
                    network.get_parameter(name).requires_grad_(False)

    @property
    def class_weights(self) -> Tensor | None:
        weights = self.recipe.class_weights
        if isinstance(weights, str):
            raise ValueError(
                f"recipe.class_weights={weights} are counted in the training labels of a data "
                "module; without one give the numbers, "
                f'recipe={{"class_weights": data.class_weights("{weights}")}}'
            )
        return torch.tensor(weights, device=self.device) if weights else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout must not depend on what ran before, so that a resumed run draws the same.
        torch.manual_seed((self.seed * 1_000_003 + batch_idx) * 4_099 + self.global_rank)
        parts = self.trainer.accumulate_grad_batches
        if batch_idx % parts == 0:
            self.micro_batches = []
            self.pass_weights = []
        self.means = []
        terms = self.losses(batch)
        sums = self.are_sums(len(terms))
        weight = self.pass_weight(len(terms)) if parts > 1 else None
        self.means = None
        loss = sum(terms.values())
        numbers = terms | self.watched | {"loss": loss}
        self.micro_batches.append({name: value.detach() for name, value in numbers.items()})
        self.pass_weights.append(torch.ones_like(loss) if weight is None else weight)
        shares = torch.stack(self.pass_weights)  # (passes so far,)
        shares = shares if sums else losses.normalized(shares)
        for name in numbers:
            values = torch.stack([each[name] for each in self.micro_batches])
            self.log(f"train/{name}", (shares * values).sum(), prog_bar=name == "loss")
        self.log("lr", self.learning_rate())
        if sums:  # Lightning divides by the parts, and several devices by their number
            return loss * (parts * self.trainer.world_size)
        return loss if weight is None else self.weighted_loss(loss, shares[-1], parts)

    def are_sums(self, terms: int) -> bool:
        """Return whether every term of a pass is a sum over pixels; those of a batch's parts add up."""
        kinds = [kind for kind, *_ in self.means or ()]
        return len(kinds) == terms and set(kinds) == {"cross_entropy:sum"}

    def pass_weight(self, terms: int) -> Tensor | None:
        """Return the weight of one pass among the passes of a step, or None for equal weights.

        If every term is a mean over the same pixels, it is the number of valid pixels, or the sum
        of their weights.
        """
        if not self.means or len(self.means) != terms:
            return None
        _, label, weights = self.means[0]
        for kind, other_label, other_weights in self.means:
            if kind != "cross_entropy" or other_label is not label or other_weights is not weights:
                return None
        return losses.weight_sum(label, self.class_weights, weights)

    def weighted_loss(self, loss: Tensor, share: Tensor, parts: int) -> Tensor:
        """Return the loss of a pass that has this share of its step so far.

        Gradients of earlier passes shrink to the rest. Lightning divides by the number of parts.
        """
        if len(self.pass_weights) > 1:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(1 - share)
        return loss * (parts * share)

    def learning_rate(self) -> float:
        """Return the current value of recipe.lr, from whatever share of it a group has."""
        for group in self.optimizers().param_groups:
            if group["initial_lr"] == self.recipe.lr:
                return group["lr"]
        group = next(group for group in self.optimizers().param_groups if group["initial_lr"])
        return self.recipe.lr * group["lr"] / group["initial_lr"]

    def after_step(self) -> None:
        """Update state that has no gradient (bases, teachers), once per optimizer step."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def encoder(self) -> nn.Module | None:
        """Return the part that starts from ImageNet weights and learns at recipe.lr, if any."""
        return None

    def load_pretrained(self, source: str) -> str:
        """Load ImageNet weights, a file or a timm name, into the encoder; return a summary."""
        return load_encoder(self.encoder(), source)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Return a parameter's share of recipe.lr: 1 in the encoder, head_lr elsewhere."""
        encoder = self.encoder()
        layer: nn.Module = self
        for part in name.split(".")[:-1]:
            layer = getattr(layer, part)
            if layer is encoder:
                return 1.0
        return self.recipe.head_lr

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Return whether a parameter has weight decay.

        If the recipe spares norms and biases, position tables, tokens and scales are spared too:
        only the weights of layers decay.
        """
        return self.recipe.decay_norms or (parameter.ndim > 1 and name.endswith("weight"))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group of parameters for each learning rate and decay."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                frozen = self.frozen_norms and is_of_a_norm(self, name)
                scale = 0.0 if frozen else self.lr_scale(name, parameter)
                key = (scale, self.decays(name, parameter))
                groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.recipe.lr * scale,
                "weight_decay": self.recipe.weight_decay if decayed else 0.0,
            }
            for (scale, decayed), parameters in groups.items()
        ]

    def on_train_batch_end(self, *unused: Any) -> None:
        """Let the trainer validate after the last of its steps too."""
        if self.trainer.global_step == self.trainer.max_steps:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer()
        scheduler = LambdaLR(optimizer, self.schedule())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def optimizer(self) -> Optimizer:
        """Build the optimizer; a method with a second optimizer returns a `JointOptimizer` of both."""
        groups = self.parameter_groups()
        if self.recipe.optimizer == "sgd":
            return SGD(groups, lr=self.recipe.lr, momentum=self.recipe.momentum)
        kind = {"adam": Adam, "adamw": AdamW}[self.recipe.optimizer]
        return kind(groups, lr=self.recipe.lr)

    def on_train_start(self) -> None:
        """Set the mode of all layers, and let the schedule end with the trainer's last step.

        Not before: Lightning warns of layers that are evaluated, as frozen norms are; and the
        trainer's loaders have to be there, and what a checkpoint says of them.
        """
        self.train()
        recipe = self.recipe
        steps = self.trainer.estimated_stepping_batches
        scheduler = self.lr_schedulers()
        of_recipe = isinstance(scheduler, LambdaLR)  # Lightning's finder of rates has its own
        if steps in (recipe.iterations, math.inf) or not of_recipe:
            return
        rank_zero_info(
            f"the schedule ends with the trainer's last step, {steps}; the recipe has "
            f"{recipe.iterations}: Experiment.trainer_options gives a Trainer as many"
        )
        warmup = recipe.warmup * steps // recipe.iterations
        self.recipe = replace(recipe, iterations=steps, warmup=warmup)
        schedule = self.schedule()
        self.recipe = recipe
        groups = len(scheduler.lr_lambdas)
        scheduler.lr_lambdas = schedule if isinstance(schedule, list) else [schedule] * groups

    def schedule(self) -> schedules.Schedule | list[schedules.Schedule]:
        """Return the learning rate, as a share of a group's own, by optimizer step.

        It is one function for all groups, or one for each in their order.
        """
        settings = self.recipe
        steps = max(1, settings.iterations - settings.warmup)
        floor = settings.min_lr / settings.lr
        decay = schedules.constant()
        if settings.schedule == "poly":
            decay = schedules.poly(steps, settings.power, floor)
        if settings.schedule == "cosine":
            decay = schedules.cosine(steps, floor)
        if settings.schedule == "step":
            decay = schedules.step(steps, floor)
        return schedules.warmed_up(
            decay, settings.warmup, settings.warmup_from, settings.warmup_shape
        )

    # --- evaluation

    def label_map(self, image: Tensor) -> Tensor:
        """Predict the class of each pixel by the recipe's mode: (B, 3, H, W) -> uint8 (B, H, W)."""
        return inference_modes.mode(self.recipe.inference)(self.evaluated, image).argmax()

    def begin_evaluation(self) -> None:
        self.confusion.reset()
        self.evaluation_loss.reset()
        self.fast = ()

    def fast_form(self) -> "SegmentationModule":
        """Return the form in which the evaluated network computes an evaluation."""
        return fast_form(self.evaluated)

    def on_validation_epoch_start(self) -> None:
        self.begin_evaluation()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the predictions, for callbacks that analyze them."""
        image, label = batch
        if not self.fast:  # not earlier: with several devices, buffers are the first one's by now
            self.fast = (self.fast_form(),)
        strips = inference_modes.mode(self.recipe.inference)(self.fast[0], image)
        predicted, loss = strips.argmax_and_loss(label)
        self.confusion.update(predicted, label)
        self.evaluation_loss.update(loss, label.ne(255).sum())
        return {"predicted": predicted, "strips": strips}

    def on_validation_epoch_end(self) -> None:
        self.keep_scores("val")

    def on_test_epoch_start(self) -> None:
        self.begin_evaluation()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.keep_scores("test")

    def keep_scores(self, split: str) -> None:
        """Log and keep the scores, with the same keys on every rank; skip a sanity check."""
        scores = self.collected_scores()
        if self.trainer.sanity_checking:
            return
        self.scores = scores | {"step": self.global_step}
        self.log(f"{split}/mIoU", scores["miou"], prog_bar=True)
        logged = {"pixel_accuracy": scores["pixel_accuracy"], "loss": scores["loss"]}
        for name, iou in zip(self.class_names, scores["iou"]):
            # Not left out: the trainer would go on showing the one before.
            logged[f"IoU/{name}"] = math.nan if iou is None else iou
        self.log_dict({f"{split}/{name}": value for name, value in logged.items()})

    @property
    def class_names(self) -> list[str]:
        """The classes by the network's own names, or the data's, or by their numbers."""
        names = self.identity.classes or getattr(self.trainer.datamodule, "class_names", None)
        return list(names or map(str, range(self.num_classes)))

    def collected_scores(self) -> dict[str, Any]:
        """Return every score of the images since the evaluation began, over all ranks."""
        miou = self.confusion.compute().item()
        with self.confusion.sync_context():
            confusion = self.confusion.confmat.clone()
        self.confusion.reset()
        self.fast = ()
        found = {"miou": miou, "confusion": confusion.tolist()}
        return scores(confusion) | found | {"loss": self.evaluation_loss.compute().item()}

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Return "label", the label maps uint8 (B, H, W), and "file", where the batch names it.

        A batch holds images, images and labels, or a dict with "image" and "file".
        """
        named = batch if isinstance(batch, Mapping) else {}
        image = named["image"] if named else batch
        if isinstance(image, (tuple, list)):
            image = image[0]
        files = {"file": named["file"]} if "file" in named else {}
        return {"label": self.label_map(image).cpu(), **files}

    # --- batches of any loader

    def on_train_batch_start(self, batch: Any, *unused: Any) -> None:
        """Refuse a batch that no loss could be computed of, and warn of strange images.

        Our own data modules have checked their files already.
        """
        if not getattr(self.trainer.datamodule, "checks_labels", False):
            check_batch(batch, self.num_classes)
            image = batch[0]
            self.warned = self.warned or (isinstance(image, Tensor) and warn_of_floats(image))

    def on_validation_batch_start(self, batch: Any, *unused: Any) -> None:
        self.on_train_batch_start(batch)

    def on_test_batch_start(self, batch: Any, *unused: Any) -> None:
        self.on_train_batch_start(batch)

    # --- checkpoints: tensors and plain values only

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the row of a checkpoint, unless the module was built as a row already."""
        stored = checkpoint.get("segmodels")
        if stored and not self.identity.experiment:
            normalization = Normalization(**stored["normalization"])
            identity = Identity.from_dict(stored)
            self.adopt(recipe_from(stored["recipe"]), normalization, identity)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["segmodels"] = self.identity.as_dict() | {
            "num_classes": self.num_classes,
            "recipe": asdict(self.recipe),
            "normalization": asdict(self.normalization),
        }


# --- batches of any loader


def check_batch(batch: Any, num_classes: int) -> None:
    """Refuse a batch that is no (image, label), and labels that are no classes."""
    if isinstance(batch, Mapping):
        raise ValueError(
            f"a batch is a dict of {', '.join(map(str, batch))}; it must be a pair (image, label): "
            "let the data set return a tuple, or give the loader a collate_fn that makes one"
        )
    if not (isinstance(batch, (tuple, list)) and len(batch) in (2, 3)):
        raise ValueError(f"a batch is a {type(batch).__name__}; it must be a pair (image, label)")
    label = batch[1]
    if not isinstance(label, Tensor):  # pairs of a semi-supervised method
        for each in batch:
            check_batch(each, num_classes)
        return
    wrong = label.ge(num_classes) & label.ne(255) | label.lt(0)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"a label holds {label[tuple(place)].item()} (image {place[0]} of the batch, "
            f"row {place[-2]}, column {place[-1]}); a network of {num_classes} classes takes "
            f"0 to {num_classes - 1}, and 255 where a pixel is ignored"
        )


def warn_of_floats(image: Tensor) -> bool:
    """Warn of floats that look like pixels, which would be taken as normalized."""
    if not image.is_floating_point() or image.min() < 0:
        return False
    most = image.max().item()
    if 0 < most <= 1 or most > 20:
        likely = "0 to 1" if most <= 1 else "0 to 255"
        rank_zero_warn(
            f"an image of floats from {image.min().item():.3g} to {most:.3g} looks like pixels of "
            f"{likely}, and floats are taken as normalized already: give uint8 RGB images, or "
            "normalize them with module.normalization"
        )
        return True
    return False
