"""SMP: networks of segmentation-models-pytorch as baselines
Iakubovskii and contributors, the library segmentation_models.pytorch (MIT).

Not a paper: networks of the most used library, trained and evaluated as everything else here, so
that a paper's network can be compared with them.

Departures:
- The library has no recipe: this one is mmsegmentation's for dilated networks on Cityscapes, but
  colors are not disturbed and the loss is a mean over labeled pixels.
- Encoders start from scratch (nothing is downloaded). Nobody published a figure for these rows.
"""

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from segmodels.module import Features, SegmentationModule
from segmodels.paper import Experiment
from segmodels.recipe import Recipe

# --- network


class SMP(SegmentationModule):
    """Any network of the library, by the library's names; logits at the image's size."""

    multiple = 32

    def __init__(
        self, num_classes: int, architecture: str = "unet", encoder_name: str = "resnet34"
    ) -> None:
        super().__init__(num_classes)
        self.network = smp.create_model(
            architecture, encoder_name, encoder_weights=None, classes=num_classes
        )

    def encoder(self) -> nn.Module:
        return self.network.encoder

    def features(self, image: Tensor) -> Features:
        self.network.check_input_shape(image)
        return self.network.encoder(image)

    def decode(self, features: Features) -> Tensor:
        """Decode maps; a DPT's encoder gives its prefix tokens too, and its decoder reads both."""
        if isinstance(self.network, smp.DPT):
            return self.network.segmentation_head(self.network.decoder(*features))
        return self.network.segmentation_head(self.network.decoder(features))


# --- experiments

MAIN = Experiment(
    SMP,
    Recipe(
        crop=(512, 1024), scales=(0.5, 2.0), continuous=True, cat_max_ratio=0.75, batch=8, iterations=40_000,
        lr=0.01, weight_decay=5e-4, schedule="poly", power=0.9, min_lr=1e-4,
    ),
    model={"architecture": "unet", "encoder_name": "resnet34"},
)  # fmt: skip

EXPERIMENTS = {"unet_resnet34": MAIN} | {
    f"{architecture}_{encoder}": MAIN.but(
        model={"architecture": architecture, "encoder_name": encoder}
    )
    for architecture, encoder in (
        ("unet", "resnet18"),
        ("unetplusplus", "resnet34"),
        ("fpn", "resnet34"),
        ("linknet", "resnet18"),
        ("deeplabv3plus", "resnet50"),
        ("upernet", "resnet50"),
        ("segformer", "mit_b0"),
    )
}
