"""The contract that every paper keeps, and all of training and judging that papers do not differ in."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segmodels import inference
from segmodels.metrics import JaccardIndex, scores
from segmodels.parts import schedules
from segmodels.parts.pretrained import load_encoder
from segmodels.parts.resize import computed_in, upsampled_rows
from segmodels.recipe import Recipe

Batch = tuple[
    Tensor, Tensor
]  # image (B, 3, H, W) uint8, or float when already normalized; label (B, H, W), 255 ignored


@dataclass(frozen=True)
class Normalization:
    """How uint8 RGB becomes what a network was trained on; travels with a row or a released layout, not in the state dict."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    order: str = "RGB"
    scale: float = 255.0  # pixels are divided by it first


class SegmentationModule(LightningModule):
    """features(image) -> (B, C, h, w); classifier -> (B, classes, h, w); losses(batch) -> {"main": ..., "aux": ...}, already weighted.

    A paper writes `features` and `classifier` (or `logits`), and `outputs` and `losses` where it trains more than its main output.
    A batch and `module(image)` may hold uint8 RGB or normalized floats; `features`, `logits` and `outputs` take normalized floats.
    """

    align_corners = False  # of the upsampling from logits to the image's size
    multiple = 1  # heights and widths are padded to a multiple of this
    without_gradient: tuple[
        str, ...
    ] = ()  # parameters that no loss reaches; the paper's file says why

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.recipe = Recipe()
        self.normalization = Normalization()
        self.identity: dict[
            str, Any
        ] = {}  # plain values that a checkpoint needs to build this module again
        self.seed = 0
        self.judge = JaccardIndex(num_classes)
        self.scores: dict[str, Any] = {}  # of the last validation or test
        self.watched: dict[str, Tensor] = {}  # numbers to see beside the losses of a step
        self.micro_batches: list[dict[str, Tensor]] = []  # the numbers of a step's passes so far

    def adopt(self, recipe: Recipe, normalization: Normalization, identity: dict[str, Any]) -> None:
        """Take over what the row says; the constructor has only the network's own options."""
        counted = isinstance(recipe.class_weights, str)  # later, in the training labels
        if recipe.class_weights and not counted and len(recipe.class_weights) != self.num_classes:
            raise ValueError(
                f"recipe.class_weights has {len(recipe.class_weights)} numbers for {self.num_classes} classes; "
                "give one per class, or recipe.class_weights=() for none"
            )
        self.recipe, self.normalization, self.identity = recipe, normalization, identity

    # --- the network

    def features(self, image: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} computes its logits without one feature map")

    def logits(self, image: Tensor) -> Tensor:
        """At the network's own resolution, as the authors' code returns them."""
        return self.classifier(self.features(image))

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """One pass: "main" and every training output by the paper's name."""
        return {"main": self.logits(image)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} has no losses: it is for inference only")

    def forward(self, image: Tensor) -> Tensor:
        """Logits at the image's size, for any height and width."""
        return self.strips(image).full()

    def strips(self, image: Tensor) -> inference.Strips:
        """One pass; the logits at the image's size are made a block of rows at a time, when asked for."""
        height, width = image.shape[-2:]
        padded = self.padded(self.normalized(image))
        logits, size = self.logits(padded), tuple(padded.shape[-2:])
        logits = logits.to(computed_in(logits))  # half precision would tie neighboring classes

        def rows(top: int, bottom: int) -> Tensor:
            return upsampled_rows(logits, size, top, bottom, self.align_corners)[..., :width]

        return inference.Strips((height, width), rows)

    def normalized(self, image: Tensor) -> Tensor:
        """uint8 RGB to what the network expects, on the image's device; floats are taken as normalized."""
        if image.dtype != torch.uint8:
            return image
        settings = self.normalization
        mean, std = (
            torch.tensor(values, device=image.device).view(3, 1, 1)
            for values in (settings.mean, settings.std)
        )
        image = image.flip(1) if settings.order == "BGR" else image
        return (
            image.to(mean.dtype).div_(settings.scale).sub_(mean).div_(std)
        )  # in place: a large image is taken once, not three times

    def prepared(self, batch: Batch) -> Batch:
        """The batch with its image normalized: the first line of every paper's `losses`."""
        image, *rest = batch
        return self.normalized(image), *rest

    def padded(self, image: Tensor) -> Tensor:
        """Right and bottom, with the mean (zero after normalization), to the size that the network can take."""
        down, right = (-side % self.multiple for side in image.shape[-2:])
        return F.pad(image, (0, right, 0, down)) if down or right else image

    # --- training

    def setup(self, stage: str) -> None:
        """Several devices wait for every gradient that is asked for, in networks held inside this one too."""
        networks = (
            [each for each in self.modules() if isinstance(each, SegmentationModule)]
            if stage == "fit"
            else []
        )
        for network in networks:
            for name in network.without_gradient:
                network.get_parameter(name).requires_grad_(False)

    @property
    def class_weights(self) -> Tensor | None:
        if isinstance(rule := self.recipe.class_weights, str):
            raise ValueError(
                f"recipe.class_weights={rule} are counted in the training labels: run.py does it; "
                f'elsewhere give the numbers, recipe={{"class_weights": data.class_weights("{rule}")}}'
            )
        return (
            torch.tensor(self.recipe.class_weights, device=self.device)
            if self.recipe.class_weights
            else None
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout must not depend on what ran before: a resumed run draws the same.
        torch.manual_seed((self.seed * 1_000_003 + batch_idx) * 4_099 + self.global_rank)
        terms = self.losses(batch)
        loss = sum(terms.values())
        seen = {
            f"train/{name}": value.detach()
            for name, value in (terms | self.watched | {"loss": loss}).items()
        }
        self.micro_batches = [
            *(self.micro_batches if batch_idx % self.trainer.accumulate_grad_batches else []),
            seen,
        ]
        means = {
            name: torch.stack([each[name] for each in self.micro_batches]).mean() for name in seen
        }
        self.log_dict(means | {"lr": self.optimizers().param_groups[0]["lr"]})
        return loss

    def after_step(self) -> None:
        """State outside the gradient (bases, teachers), once per optimizer step."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def encoder(self) -> nn.Module | None:
        """The part that starts from ImageNet weights and learns at 1x; everything else is a head."""
        return None

    def load_pretrained(self, source: str) -> str:
        """ImageNet weights into the backbone, from a file or by a timm name; says in words what was loaded."""
        return load_encoder(self.encoder(), source)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The backbone at lr, the rest at head_lr times lr; norms and biases without decay where the recipe says so."""
        encoder = self.encoder()
        slow = set(encoder.parameters()) if encoder is not None else set()
        fast = [parameter for parameter in self.parameters() if parameter not in slow]
        groups = self._split_by_decay(
            slow and list(encoder.parameters()), 1.0
        ) + self._split_by_decay(fast, self.recipe.head_lr)
        return [group for group in groups if group["params"]]

    def _split_by_decay(
        self, parameters: Iterable[nn.Parameter], share: float
    ) -> list[dict[str, Any]]:
        settings, trained = self.recipe, [each for each in parameters if each.requires_grad]
        decayed = [each for each in trained if each.ndim > 1 or settings.decay_norms]
        spared = [each for each in trained if each.ndim <= 1 and not settings.decay_norms]
        return [
            {"params": decayed, "lr": settings.lr * share, "weight_decay": settings.weight_decay},
            {"params": spared, "lr": settings.lr * share, "weight_decay": 0.0},
        ]

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self._optimizer(self.parameter_groups())
        scheduler = LambdaLR(optimizer, self._schedule())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        if self.recipe.optimizer == "adamw":
            return AdamW(groups, lr=self.recipe.lr)
        return SGD(groups, lr=self.recipe.lr, momentum=self.recipe.momentum)

    def _schedule(self) -> schedules.Schedule:
        settings = self.recipe
        steps, floor = max(1, settings.iterations - settings.warmup), settings.min_lr / settings.lr
        if settings.schedule == "poly":
            decay = schedules.poly(steps, settings.power, floor)
        else:
            decay = (
                schedules.cosine(steps, floor)
                if settings.schedule == "cosine"
                else schedules.constant()
            )
        return schedules.warmed_up(
            decay, settings.warmup, settings.warmup_from, settings.warmup_shape
        )

    # --- judging

    def label_map(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to the predicted class of each pixel, uint8 (B, H, W), by the recipe's inference mode."""
        return inference.mode(self.recipe.inference)(self, image).argmax()

    def begin_judging(self) -> None:
        self.judge.reset()

    def on_validation_epoch_start(self) -> None:
        self.begin_judging()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """What a callback may look at more closely."""
        image, label = batch
        strips = inference.mode(self.recipe.inference)(self, image)
        predicted = strips.argmax()
        self.judge.update(predicted, label)
        return {"predicted": predicted, "strips": strips}

    def on_validation_epoch_end(self) -> None:
        self.conclude("val")

    def on_test_epoch_start(self) -> None:
        self.begin_judging()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.conclude("test")

    def conclude(self, split: str) -> None:
        """The same keys on every rank; nothing is logged or kept from a sanity check."""
        found = self.concluded()
        if not self.trainer.sanity_checking:
            self.scores = found | {"step": self.global_step}
            self.log_dict(
                {f"{split}/mIoU": found["miou"], f"{split}/pixel_accuracy": found["pixel_accuracy"]}
            )

    def concluded(self) -> dict[str, Any]:
        """Every score of what was judged, over all ranks."""
        miou = self.judge.compute().item()
        with self.judge.sync_context():
            confusion = self.judge.confmat.clone()
        self.judge.reset()
        return scores(confusion) | {"miou": miou, "confusion": confusion.tolist()}

    # --- checkpoints: tensors and plain values only

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["segmodels"] = self.identity | {
            "num_classes": self.num_classes,
            "recipe": asdict(self.recipe),
            "normalization": asdict(self.normalization),
        }
