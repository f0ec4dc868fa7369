"""What is timed: one pass of a network, plain or in a fast form that is shown to compute the same."""

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from experiments.export import LIMIT, clear_errors
from segmodels import deploy
from segmodels.module import SegmentationModule

# --- plain


class Pass(nn.Module):
    """Normalized floats to what `what` names, through the module's own logits or another network that computes the same."""

    def __init__(
        self, module: SegmentationModule, what: str, network: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.module, self.what = module, what
        self.network = network or Logits(module)

    def forward(self, image: Tensor) -> Tensor:
        if self.what == "logits":
            return self.network(self.module.padded(image))
        logits = self.module(image, self.network)
        return logits.argmax(1).to(torch.uint8) if self.what == "label" else logits


class Logits(nn.Module):
    def __init__(self, module: SegmentationModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        return self.module.logits(image)


# --- fast


def folded(module: SegmentationModule, image: Tensor) -> nn.Module:
    """The way to the logits alone, batch norm inside its convolutions, for images of this shape."""
    with torch.no_grad():
        graph = torch.export.export(Logits(module), (module.padded(image),)).module()
        deploy.fold(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def layout(asked: argparse.Namespace) -> torch.memory_format:
    return torch.channels_last if asked.channels_last else torch.contiguous_format


def pass_of(
    network: nn.Module, image: Tensor, context: Callable[[], AbstractContextManager], compiled: bool
) -> Callable[[], Tensor]:
    run = compiled_whole(network) if compiled else network

    def work() -> Tensor:
        with torch.inference_mode(), context():
            return run(image)

    return work


def compiled_whole(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """In one graph: what cannot be compiled is an error, and never computed the slow way unnoticed."""
    torch._dynamo.config.recompile_limit = 1000  # each network and precision counts as one
    return torch.compile(network, fullgraph=True, dynamic=False)


# --- that the fast form computes the same


def apart(
    module: SegmentationModule, network: Pass, image: Tensor, asked: argparse.Namespace
) -> tuple[float, float]:
    """How far the fast form is from the plain network, in float32 without TF32, and how far it may be.

    Of logits: the largest difference. Of labels: the share of pixels whose class is another by more than rounding may turn.
    """
    fast = compiled_whole(network) if asked.compile else network
    plain = Pass(module, "logits" if asked.what == "logits" else "full")
    with torch.no_grad(), without_tf32():
        logits, output = plain(image), fast(image.contiguous(memory_format=layout(asked)))
        rounding = (copy.deepcopy(plain).double()(image.double()) - logits).abs().max().item()
    limit = max(LIMIT * max(1.0, logits.abs().max().item()), 20 * rounding)
    if asked.what == "label":
        return clear_errors(logits, output, limit), 0.0
    return (output - logits).abs().max().item(), limit


@contextmanager
def without_tf32() -> Iterator[None]:
    settings = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in settings]
    for each in settings:
        each.allow_tf32 = False
    try:
        yield
    finally:
        for each, was in zip(settings, before):
            each.allow_tf32 = was
