"""Any timm network as an encoder: the option `encoder` of several papers.

A network is built without its weights; `load_encoder` fills it by the names of timm's classifier.
Two things are asked of it: maps at strides 4, 8, 16 and 32, and to take images of any size.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from segmodels.nearest_names import nearest_name
from segmodels.parts.weight_files import State

STRIDES = (4, 8, 16, 32)
SIDE = 64  # of an image that shows what sizes the maps have


class TimmEncoder(nn.Module):
    """image -> a timm network's maps at strides 4, 8, 16, 32, finest first.

    `output_stride` trades stride for dilation, as far as timm can: with 8 the strides are 4, 8, 8,
    8. `half` adds the map at 1/2 in front, if the network has one.

    If `aligned`, an image of 32 k + 1 pixels has a map of k + 1, and their corners lie on each
    other, as in a ResNet. Other networks take patches; an image's sides should be a `multiple`.
    """

    def __init__(self, name: str, output_stride: int = 32, half: bool = False) -> None:
        super().__init__()
        self.model = network_of(name, output_stride)
        names = list(self.model.state_dict())
        separate_activations(self.model)
        self.timm_names = {timm_name(each): own for each, own in zip(names, self.state_dict())}
        strides = self.model.feature_info.reduction()
        channels = self.model.feature_info.channels()
        if strides[-len(STRIDES) :] != [min(stride, output_stride) for stride in STRIDES]:
            raise ValueError(
                f"timm's {name} has maps at strides {', '.join(map(str, strides))}; "
                f"an encoder needs {', '.join(map(str, STRIDES))}"
            )
        count = len(STRIDES)
        if half and strides[: -len(STRIDES)][-1:] == [2]:
            count += 1
        self.strides = tuple(strides[-count:])
        self.channels = tuple(channels[-count:])
        self.aligned = takes(name, output_stride, SIDE + 1)
        self.multiple = 1 if self.aligned else output_stride
        if not (self.aligned or takes(name, output_stride, SIDE)):
            raise ValueError(
                f"timm's {name} takes images of one size alone, or its maps have other shapes than "
                "(channels, height, width) by their strides; it is no encoder here"
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.model(image)[-len(self.channels) :]

    def renamed(self, state: State) -> State:
        """Return the weights of timm's classifier under our names; others keep theirs."""
        return {self.timm_names.get(timm_name(name), name): each for name, each in state.items()}


def timm_name(name: str) -> str:
    """Return a tensor's name as it is compared: "stages.0" of a classifier is "stages_0" here."""
    return name.removeprefix("model.").replace("_", ".")


def takes(name: str, output_stride: int, side: int) -> bool:
    """Return whether the maps of a square image have the sizes of their strides, rounded up."""
    with torch.device("meta"), torch.no_grad():
        network = network_of(name, output_stride).eval()
        try:
            maps = network(torch.zeros(1, 3, side, side))
        except (AssertionError, RuntimeError):  # of attention over windows, or of sums of maps
            return False
    expected = [-(-side // stride) for stride in network.feature_info.reduction()]
    return [each.shape[-1] for each in maps] == expected


def separate_activations(network: nn.Module) -> None:
    """Replace timm's norms with an activation inside by plain norms and the activation.

    Norms that are synchronized between devices lose what is inside, and such are not folded.
    """
    from timm.layers import BatchNormAct2d

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is BatchNormAct2d:
                norm = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
                norm.load_state_dict(child.state_dict(), assign=True)
                layers = OrderedDict(norm=norm, drop=child.drop, act=child.act)
                module.add_module(name, nn.Sequential(layers))


# --- timm's names


def network_of(name: str, output_stride: int) -> nn.Module:
    """Build a timm network that returns its maps, without pretrained weights."""
    import timm

    check_name(name)
    options = {} if output_stride == STRIDES[-1] else {"output_stride": output_stride}
    try:
        return timm.create_model(name, features_only=True, **options)
    except Exception as problem:  # which one differs from network to network
        if options:
            network_of(name, STRIDES[-1])  # has an error of its own if that is not possible either
            raise ValueError(
                f"timm cannot trade the stride of {name} for dilation: its last map stays at 1/32, "
                f"and this network needs 1/{output_stride}; ResNets, RegNets, EfficientNets, "
                "MobileNets and ConvNeXts can, and a U-Net or a feature pyramid needs no dilation"
            ) from problem
        raise ValueError(f"timm does not give the maps of {name} ({problem})") from problem


def check_name(name: str) -> None:
    """Refuse a network, and a tag of its weights, that timm does not know."""
    import timm

    network, _, tag = name.partition(".")
    if not timm.is_model(network):
        near = nearest_name(network, timm.list_models())
        guess = f"did you mean {near}? " if near else ""
        raise ValueError(
            f"timm has no network called {network}; {guess}timm.list_models() has all names"
        )
    if tag and not timm.is_model_pretrained(name):
        known = ", ".join(timm.list_pretrained(f"{network}.*"))
        raise ValueError(f"timm has no weights called {name}; there are {known or 'none'}")


def normalization_of(name: str) -> dict[str, tuple[float, ...]]:
    """Return the mean and the standard deviation that timm's weights of a network expect."""
    import timm

    check_name(name)
    settings = timm.get_pretrained_cfg(name)
    return {"mean": tuple(settings.mean), "std": tuple(settings.std)}
