"""DANet: Dual Attention Network for Scene Segmentation
Fu, Liu, Tian, Li, Bao, Fang, Lu. CVPR 2019. arXiv:1809.02983

Two attentions side by side. In the first every position looks at all positions, so that what is
alike is described alike wherever it lies. In the second every channel looks at all channels, since
channels of the last stage answer to classes, and classes go together. Their sum is classified, and
each by itself too while training.

    image -> ResNet, dilated to 1/8 ─┬─ 3x3 -> position attention -> 3x3 ─┬───────────── dropout, 1x1: position, in training
                                     │                                   (+) -> dropout, 1x1 -> logits at 1/8
                                     └─ 3x3 -> channel attention --> 3x3 ─┴───────────── dropout, 1x1: channel, in training

    position   y[i] = gamma (sum over positions j of s[i, j] v(x[j])) + x[i]
               s[i, j] = softmax over j of q(x[i]) . k(x[j])
    channel    y[c] = gamma (sum over channels d of s[c, d] x[d]) + x[c]
               s[c, d] = softmax over d of (max over e of x[c] . x[e]) - x[c] . x[d]

Both gammas are learned and start at 0.

Departures:
- The channel attention is the authors' code's: a difference from the largest product in front of
  the softmax, so that a channel looks at those that are least like it.
- The recipe is the training command of the authors' first README (September 2018), and the sum of
  three losses is that code's. Later code trains at other rates and has no loss of three outputs.
- The released network has dilations of 4, 8 and 16 in its last stage ("multi-grid"), and so have
  all rows.
- 240 epochs are counted as 89,040 steps: 371 full batches of 8 in 2975 images.
- ImageNet weights are torchvision's of the same network; the authors' own cannot be fetched by
  name.
- A window that would leave the image at the right or at the bottom is moved back; the authors' test
  fills it up with the mean instead. It adds logits of both mirror images and averages their
  exponentials; here probabilities are averaged.
- Figures of PASCAL Context and COCO-Stuff are the paper's, which has other recipes for these: here
  theirs is Cityscapes'.
- A network of one attention is classified once: its one output is the main one.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from segmodels.families.common import CommonNet, common
from segmodels.families.dilated import classifier
from segmodels.module import SegmentationModule
from segmodels.paper import Experiment, Published, Released
from segmodels.parts.backbones.resnet import ResNet
from segmodels.parts.layers import conv_bn_relu
from segmodels.recipe import Recipe

# --- attention (sections 3.2, 3.3); N positions, C channels


class PositionAttention(nn.Module):
    """Each position is a mean over all positions, weighted by their likeness (equations 1, 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        layers = self.query, self.key, self.value
        query, key, value = (layer(x).flatten(2) for layer in layers)  # -> (B, C/8 or C, N)
        weights = (query.transpose(1, 2) @ key).softmax(2)  # (B, i, j)
        mean = value @ weights.transpose(1, 2)  # (B, C, j) x (B, j, i)
        return self.gamma * mean.unflatten(2, x.shape[2:]) + x  # (B, C, N) -> (B, C, h, w)


class ChannelAttention(nn.Module):
    """Each channel is a mean over all channels, with the largest weights for those that are least
    like it (equations 3, 4).
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.flatten(2)  # (B, C, h, w) -> (B, C, N)
        products = channels @ channels.transpose(1, 2)  # (B, c, d)
        weights = (products.amax(2, keepdim=True) - products).softmax(2)
        mean = weights @ channels  # (B, c, d) x (B, d, N)
        return self.gamma * mean.unflatten(2, x.shape[2:]) + x


class DualAttention(nn.Module):
    """The sum of both attentions of one map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position = PositionAttention(channels)
        self.channel = ChannelAttention()

    def forward(self, x: Tensor) -> Tensor:
        return self.position(x) + self.channel(x)


# --- network and losses (sections 3.1, 3.4)

Attentions = Literal["both", "position", "channel"]


class DANet(SegmentationModule):
    """Dilated ResNet -> position attention and channel attention -> classifier of their sum."""

    align_corners = True

    def __init__(self, num_classes: int, depth: int = 101, attentions: Attentions = "both") -> None:
        super().__init__(num_classes)
        self.backbone = self.resnet(depth)
        deep = self.backbone.channels[-1]
        operators = {"position": PositionAttention(512), "channel": ChannelAttention()}
        names = operators if attentions == "both" else [attentions]
        self.branches = nn.ModuleDict({name: branch(deep, operators[name]) for name in names})
        self.classifier = classifier(512, num_classes)
        self.heads = nn.ModuleDict()
        if attentions == "both":
            self.heads.update({name: classifier(512, num_classes) for name in names})

    @staticmethod
    def resnet(depth: int) -> nn.Module:
        """Make a backbone with dilations of 4, 8 and 16 in its last stage."""
        return ResNet(depth, output_stride=8, multi_grid=(2, 2, 4))

    def encoder(self) -> nn.Module:
        return self.backbone

    def features(self, image: Tensor) -> list[Tensor]:
        return self.attended(self.backbone(image)[-1])

    def attended(self, deep: Tensor) -> list[Tensor]:
        return [branch(deep) for branch in self.branches.values()]

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.classifier(sum(features))

    def auxiliary_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {name: head(x) for (name, head), x in zip(self.heads.items(), features)}


def branch(inside: int, operator: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inside, 512), operator, conv_bn_relu(512, 512))


class Common(CommonNet):
    """The sum of both attentions, in the network in which operators are compared."""

    operator = DualAttention


# --- experiments (section 4)

EPOCH = 2975 // 8
README = "README of the authors' DANet"
FIRST_README = f"{README}, 2018"
NOTES = "paper, as study notes on EMANet quote its table"
NOT_STATED = "scales not stated"  # one, or several
SLIDING = "slide:768x768/512x512+flip"  # the authors' test mirrors each window, at one scale too
SCALES = "multiscale:0.5,0.75,1,1.25,1.5,1.75,2,2.2+slide:1024x1024/512x512+flip"


def noted(context: float, stuff: float) -> tuple[Published, ...]:
    """Return figures on the table's test sets; of COCO-Stuff, release 10k has one with labels."""
    release = (("release", "10k"),)
    return (
        Published(context, "context", "test", NOT_STATED, NOTES),
        Published(stuff, "cocostuff", "test", NOT_STATED, NOTES, options=release),
    )


MAIN = Experiment(
    DANet,
    Recipe(
        crop=(768, 768), scales=(0.75, 2.0), continuous=True, padding="black", batch=8, iterations=240 * EPOCH,
        lr=0.003, head_lr=10.0, weight_decay=1e-4, schedule="poly", power=0.9, inference=SLIDING,
    ),
    model={"depth": 101}, starts_from="resnet101.tv_in1k",
    published=(
        Published(79.93, "cityscapes", "val", SLIDING, FIRST_README),
        Published(81.49, "cityscapes", "val", SCALES, FIRST_README),
        Published(81.5, "cityscapes", "test", NOT_STATED, README),
        *noted(context=52.6, stuff=39.7),
    ),
)  # fmt: skip
RESNET50 = MAIN.but(
    model={"depth": 50}, starts_from="resnet50.tv_in1k", published=noted(context=50.1, stuff=37.2)
)

EXPERIMENTS = {
    "resnet101": MAIN,
    "resnet50": RESNET50,
    # section 4.2.1, table 1
    "position": RESNET50.but(model={"attentions": "position"}),
    "channel": RESNET50.but(model={"attentions": "channel"}),
    "common": common(Common),
}

# --- released weights: the authors' junfu1115/DANet

RENAMES = (
    (r"^pretrained\.", "backbone."),
    (r"^head\.conv5a\.", "branches.position.0."),
    (r"^head\.conv5c\.", "branches.channel.0."),
    (r"^head\.sa\.", "branches.position.1."),
    (r"^head\.sc\.", "branches.channel.1."),
    (r"(query|key|value)_conv\.", r"\1."),
    (r"^head\.conv51\.", "branches.position.2."),
    (r"^head\.conv52\.", "branches.channel.2."),
    (r"^head\.conv6\.", "heads.position."),
    (r"^head\.conv7\.", "heads.channel."),
    (r"^head\.conv8\.", "classifier."),
)
RELEASED = {"danet_r101": Released("danet/resnet101", "head.conv8.1.bias", RENAMES)}
