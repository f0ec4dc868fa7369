"""Copies of networks that compute the same logits faster on a CPU: batch norm is folded."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONVOLUTION = torch.ops.aten.convolution.default
BATCH_NORM = torch.ops.aten.native_batch_norm.default
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # a subclass may do more than normalize
SIZE = (96, 96)  # of the image whose pass shows what reads what; no control flow depends on it

Network = TypeVar("Network", bound=LightningModule)


def fast_form(network: Network) -> Network:
    """Return a copy with the network's own logits but for rounding; on a GPU, the network itself.

    The copy is for evaluation alone: batch norm is folded, and tensors are in channels last. It
    takes images of every size in every inference mode.
    """
    if network.device.type != "cpu":
        return network
    exact = torch.autocast(network.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), exact:
        fast = folded(copy.deepcopy(network)).to(memory_format=torch.channels_last)
        try:
            fast(noise_for(network))
        except RuntimeError:  # its code makes a view that channels last does not have
            fast.to(memory_format=torch.contiguous_format)
    return fast


def folded(network: Network, size: tuple[int, int] = SIZE) -> Network:
    """Return a copy in eval mode with batch norm folded; all other weights are the network's own.

    `size` is one that the network takes, if it does not take all.
    """
    shared = {id(each): each for each in (*network.parameters(), *network.buffers())}
    copied = copy.deepcopy(network, shared).eval()
    with torch.no_grad():
        fold(copied, noise_for(network, size))
    return copied


def noise_for(network: LightningModule, size: tuple[int, int] = SIZE) -> Tensor:
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    return noise.to(network.device, network.dtype)


def fold(network: nn.Module, image: Tensor) -> int:
    """Fold each batch norm that follows a convolution into it, in place; return their number.

    A pass of the image shows them; it may come to a pair several times. A norm stays where anything
    else reads the convolution's output, or the weights of one of them.
    """
    pairs = list(foldable(network, image))
    for conv, norm in pairs:
        conv.weight, conv.bias = folded_weights(conv, norm)
        norm._parameters.clear()
        norm._buffers.clear()
        norm.forward = nn.Identity().forward  # in the object, which may have several names
    return len(pairs)


def folded_weights(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of both as one convolution, computed in float64."""
    return fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        norm.weight,
        norm.bias,
    )


# --- what reads what


@dataclass(frozen=True)
class Call:
    operation: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    output: Any


class Calls(TorchDispatchMode):
    """Record the operations of a pass, and keep their tensors: so the id of each is unique."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = operation(*args, **kwargs)
        self.calls.append(Call(operation, args, kwargs, output))
        return output


def foldable(network: nn.Module, image: Tensor) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
    """Yield the convolution and the batch norm of each pair that is one linear map."""
    with torch.no_grad(), Calls() as recorded:
        output = network(image)
    reads = Counter(id(each) for each in tree_leaves(output))
    made = {}  # by a convolution: its arguments, by its output
    for call in recorded.calls:
        reads.update(id(each) for each in tree_leaves((call.args, call.kwargs)))
        if call.operation is CONVOLUTION:
            made[id(call.output)] = call.args
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    owners = Counter(id(each.weight) for each in layers)
    convs = {id(each.weight): each for each in layers if owners[id(each.weight)] == 1}
    norms = {id(each.running_mean): each for each in network.modules() if type(each) in NORMS}
    pairs = Counter()
    for call in recorded.calls:
        if call.operation is not BATCH_NORM or id(call.args[0]) not in made:
            continue
        features, _, _, mean, _, of_the_batch, *_ = call.args
        _, weight, bias, *_ = made[id(features)]
        conv = convs.get(id(weight))
        norm = norms.get(id(mean))
        alone = reads[id(features)] == 1 and conv and norm and conv.bias is bias
        if alone and not of_the_batch:
            pairs[conv, norm] += 1
    for (conv, norm), times in pairs.items():
        if reads[id(conv.weight)] == reads[id(norm.running_mean)] == times:
            yield conv, norm
