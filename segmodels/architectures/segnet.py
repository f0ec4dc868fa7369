"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation
Badrinarayanan, Kendall, Cipolla. IEEE TPAMI 2017. arXiv:1511.00561

The decoder puts every value back where pooling took it from: it needs the places of the encoder's
maxima, not the encoder's maps. Convolutions then fill the holes between them.

    image ─ 64 x 2 ────────────── places ──────────── 64, classes ─ logits at 1
       pool └ 128 x 2 ─────────── places ────── 128, 64 ┘ unpool
          pool └ 256 x 3 ──────── places ─ 256 x 2, 128 ┘
             pool └ 512 x 3 ───── places ─ 512 x 2, 256 ┘
                pool └ 512 x 3 ── places ─ 512 x 3 ┘
                   pool └ 512 x 1/32 ──────────┘ unpool

The paper's section 3 compares decoders on a small network of four 7x7 convolutions, SegNet-Basic.
Beyond the deepest map they keep of the encoder, for one image of 360x480 and 11 classes
(`kept_bytes`; the whole network keeps 1.32 MB):

    row                              decoder                                   kept      parameters
    basic                            places, 7x7                                0.92 MB  1.416 M
    basic_encoder_addition           places, 7x7, + pooled maps                15.43 MB  1.416 M
    basic_single_channel             places, 7x7 of each map by itself          0.92 MB  0.626 M
    basic_bilinear                   scores, enlarged                              0     0.613 M
    basic_fcn                        deconvolution of scores, + scores          2.49 MB  0.646 M
    basic_fcn_no_addition            deconvolution of scores                       0     0.644 M
    basic_fcn_no_reduction           deconvolution of maps, + pooled maps      14.52 MB  1.661 M
    basic_fcn_no_addition_reduction  deconvolution of maps                         0     1.661 M

Departures:
- The rate (0.001, fixed) and the batch (5) are those of the paper's comparison of whole networks
  (section 4); 0.1 and 12 are those of its small variants (section 3). Weight decay, the number of
  steps, the doubled rate of the convolutions' biases and the decay that spares biases are the
  released files', whose batch is 4.
- The paper's comparison drops values (0.5) behind the deeper convolutions; the released network for
  training does not, and this one neither.
- The released network starts from VGG16 without batch norm and learns its norms anew; here it is
  torchvision's VGG16 with them, and images are normalized as it wants. The contrast normalization
  of the images (section 3.2) is left out.
- Class weights are counted over the training set. The paper sums the weighted loss over all pixels
  (section 3.2); here it is divided by the sum of the weights.
- The paper evaluates the best of its snapshots by validation images; here it is the last.
- The paper's figures for the whole network are of training on 3433 images of several data sets, so
  none stands here.
- The small networks' steps and weight decay are the released file's of SegNet-Basic, whose batch is
  4 and whose convolutions have biases; the paper's have none, and train until the loss converges.
- Which maps a decoder adds is said of FCN's alone: the pooled ones, so none at the image's size. Here
  SegNet's adds the same ones. Kernels of 8x8 are wider than interpolation by two needs; they begin
  as a triangle of that width. Scores of the bilinear decoder are enlarged in one step.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published
from segmodels.parts.layers import bilinear_deconvolution, conv_bn, is_convolution_bias
from segmodels.parts.pretrained import State, load_encoder
from segmodels.recipe import Recipe

# --- network (section 3)

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # VGG16's


def conv_bn_relu(inside: int, outside: int) -> nn.Sequential:
    """Stack a 3x3 with a bias, a norm and a ReLU."""
    conv = nn.Conv2d(inside, outside, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


def stage(inside: int, widths: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(*map(conv_bn_relu, (inside, *widths), widths))


class Pooled(NamedTuple):
    """The encoder's last map, and what a decoder keeps of the others, finest first."""

    deep: Tensor  # (B, 512, h, w) at 1/32
    places: list[Tensor]  # indices of the maxima of each pooling, row by row
    sizes: list[tuple[int, int]]  # height and width before each pooling
    maps: list[Tensor]  # pooled ones


def kept_bytes(features: Pooled) -> int:
    """Return what is kept beyond the deepest map: 2 bits for a place, 4 bytes for a value."""
    places = sum(each.numel() for each in features.places)
    values = sum(each.numel() for each in features.maps)
    return places // 4 + 4 * values


class Solved(SegmentationModule):
    """A network that is initialized and trained as the released prototxt files say."""

    ceil_mode = True  # Caffe's pooling keeps the last row of an odd number: 45 rows become 23

    def initialize(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.constant_(layer.bias, 0.001)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Double the rate of convolutions' biases, not of the norms' ones."""
        scale = super().lr_scale(name, parameter)
        return 2 * scale if is_convolution_bias(self, name) else scale

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return not name.endswith("bias")


class SegNet(Solved):
    """VGG16's convolutions and their mirror image; logits at the image's size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        inside = (3, *(widths[-1] for widths in WIDTHS))
        self.down = nn.ModuleList(map(stage, inside, WIDTHS))
        up = []
        for shallow, widths in pairwise(WIDTHS):
            up.append(stage(widths[-1], (*widths[1:], shallow[-1])))
        first = nn.Sequential(conv_bn_relu(64, 64), self.last(64, num_classes))
        self.up = nn.ModuleList([*reversed(up), first])
        self.initialize()

    def last(self, inside: int, num_classes: int) -> nn.Module:
        return nn.Conv2d(inside, num_classes, 3, padding=1)

    def encoder(self) -> nn.Module:
        return self.down

    def load_pretrained(self, source: str) -> str:
        """Load VGG16's convolutions and norms, without its classifier of three layers."""
        return load_encoder(self.down, source, rename=convolutions)

    def features(self, image: Tensor) -> Pooled:
        x = image
        places = []
        sizes = []
        for convs in self.down:
            x = convs(x)
            sizes.append(tuple(x.shape[-2:]))
            x, place = F.max_pool2d(x, 2, ceil_mode=self.ceil_mode, return_indices=True)
            places.append(place)
        return Pooled(x, places, sizes, [])

    def decode(self, features: Pooled) -> Tensor:
        x = features.deep
        for convs, place, size in zip(self.up, features.places[::-1], features.sizes[::-1]):
            x = convs(unpooled(x, place, size))
        return x


def unpooled(x: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute F.max_unpool2d in operations that ONNX has: every value at its place, else 0."""
    holes = x.new_zeros(*x.shape[:2], size[0] * size[1])
    filled = holes.scatter(2, place.flatten(2), x.flatten(2))  # (B, C, h, w) -> (B, C, H*W)
    return filled.unflatten(2, size)  # -> (B, C, H, W)


def convolutions(state: State) -> dict[str, Tensor]:
    """Return the tensors before VGG's classifier, which timm and torchvision name alike."""
    return {name: tensor for name, tensor in state.items() if name.startswith("features.")}


# --- small networks with other decoders (section 3.1, table 1)


class SegNetBasic(Solved):
    """Four 7x7 convolutions, and one of the decoders that table 1 compares.

    `addition` adds encoder's maps, which `reduction` turns into scores first.
    """

    def __init__(
        self,
        num_classes: int,
        upsampling: Literal["places", "deconvolution", "bilinear"] = "places",
        addition: bool = False,
        reduction: bool = False,
        single_channel: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__(num_classes)
        self.upsampling = upsampling
        self.addition = addition
        self.down = nn.ModuleList(conv_bn(inside, width, 7) for inside in (3, *[width] * 3))
        channels = num_classes if reduction else width
        groups = width if single_channel else 1
        up = []
        for _ in self.down:
            if upsampling == "places":
                up.append(conv_bn(width, width, 7, groups=groups))
            elif upsampling == "deconvolution":
                up.append(bilinear_deconvolution(channels, 2, kernel=8, padding=3))
        self.up = nn.ModuleList(up)
        reduced = 0
        if reduction:
            reduced = len(self.down) if addition else 1
        narrow = (nn.Conv2d(width, num_classes, 1) for _ in range(reduced))
        self.narrow = nn.ModuleList(narrow)  # of the deepest map, then of the finest and so on
        self.classifier = nn.Identity() if reduction else nn.Conv2d(width, num_classes, 1)
        self.initialize()

    def features(self, image: Tensor) -> Pooled:
        x = image
        maps = []
        places = []
        sizes = []
        for convs in self.down:
            x = convs(x).relu()
            sizes.append(tuple(x.shape[-2:]))
            x, place = F.max_pool2d(x, 2, ceil_mode=self.ceil_mode, return_indices=True)
            places.append(place)
            maps.append(x)
        kept = maps[:-1] if self.addition else []
        if self.narrow:
            first, *others = self.narrow
            x = first(x)
            kept = [narrow(each) for narrow, each in zip(others, kept)]
        return Pooled(x, places if self.upsampling == "places" else [], sizes, kept)

    def decode(self, features: Pooled) -> Tensor:
        x = features.deep
        for depth, up in zip((3, 2, 1, 0), self.up):
            size = features.sizes[depth]
            if self.upsampling == "places":
                x = up(unpooled(x, features.places[depth], size))  # no ReLU
            else:
                x = up(x)[..., : size[0], : size[1]]
            if self.addition and depth:
                x = x + features.maps[depth - 1]
        return self.classifier(x)


# --- experiments (sections 3.2, 4)

CAMVID = Recipe(
    crop=(360, 480), flip=0.0, batch=5, iterations=40_000, lr=1e-3, momentum=0.9, weight_decay=5e-4, schedule="constant",
    class_weights="median_frequency",
)  # fmt: skip
# Of sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian and bicyclist:
# Models/segnet_train.prototxt of alexgkendall/SegNet-Tutorial.
PUBLISHED_WEIGHTS = (
    0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614,
)  # fmt: skip
OWN = {"crop": (360, 480), "scales": (1.0,), "continuous": False, "batch": 5, "iterations": 40_000}
STREETS = {"crop": (96, 192), "batch": 4}

BASIC_CAMVID = Recipe(
    crop=(360, 480), flip=0.0, batch=12, iterations=10_000, lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="constant",
    class_weights="median_frequency",
)  # fmt: skip
TABLE_1 = "paper, table 1, median frequency balancing"
BASIC_OWN = OWN | {"batch": 12, "iterations": 10_000}


def published(miou: float) -> tuple[Published, ...]:
    return (Published(miou, "camvid", "test", "whole", TABLE_1),)


BASIC = Experiment(
    SegNetBasic, BASIC_CAMVID, data="camvid", starts_from="scratch",
    budgets={"camvid": BASIC_OWN, "streets": STREETS}, published=published(47.7),
)  # fmt: skip
FCN_BASIC = {"upsampling": "deconvolution"}
MAIN = Experiment(
    SegNet, CAMVID, data="camvid", starts_from="vgg16_bn.tv_in1k", budgets={"camvid": OWN, "streets": STREETS}
)  # fmt: skip
EXPERIMENTS = {
    "vgg16": MAIN,
    "published_weights": MAIN.but(
        budgets={"camvid": OWN | {"class_weights": PUBLISHED_WEIGHTS}, "streets": STREETS}
    ),
    "no_balancing": MAIN.but(recipe={"class_weights": ()}),
    "basic": BASIC,
    "basic_encoder_addition": BASIC.but(model={"addition": True}, published=published(48.5)),
    "basic_single_channel": BASIC.but(model={"single_channel": True}, published=published(46.1)),
    "basic_bilinear": BASIC.but(model={"upsampling": "bilinear"}, published=published(43.3)),
    "basic_fcn": BASIC.but(
        model=FCN_BASIC | {"addition": True, "reduction": True}, published=published(47.3)
    ),
    "basic_fcn_no_addition": BASIC.but(
        model=FCN_BASIC | {"reduction": True}, published=published(44.1)
    ),
    "basic_fcn_no_reduction": BASIC.but(
        model=FCN_BASIC | {"addition": True}, published=published(50.1)
    ),
    "basic_fcn_no_addition_reduction": BASIC.but(model=FCN_BASIC, published=published(45.9)),
}
