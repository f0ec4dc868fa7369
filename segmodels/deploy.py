"""A network as it is deployed: one size, no training heads, batch norm inside its convolutions; and its way to ONNX."""

import argparse
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from segmodels.module import SegmentationModule

CONVOLUTIONS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
}
BATCH_NORM = torch.ops.aten.batch_norm.default
# Of the largest logit, or of 1 where all are smaller; but at least 20 times the rounding of the module itself.
LIMIT = 1e-4


class Deployed(nn.Module):
    """An image to logits at its size, or to the class of each pixel: what module(image) is, in plain operations."""

    def __init__(self, module: SegmentationModule, argmax: bool) -> None:
        super().__init__()
        self.module, self.argmax = module, argmax

    def forward(self, image: Tensor) -> Tensor:
        logits = self.module(image)
        return logits.argmax(1).to(torch.uint8) if self.argmax else logits


def deployed(
    module: SegmentationModule, size: tuple[int, int], *, uint8: bool = False, argmax: bool = False
) -> GraphModule:
    """For images (1, 3, *size): normalized floats, or uint8 RGB that is normalized inside; any other size is refused.

    It shares no weights with the module, and holds those alone that its output is computed from.
    """
    image = torch.zeros(
        1, 3, *size, dtype=torch.uint8 if uint8 else next(module.parameters()).dtype
    )
    with torch.no_grad():
        graph = torch.export.export(
            Deployed(copy.deepcopy(module).cpu().eval(), argmax), (image,)
        ).module()
        fold(graph)
    graph.training = False  # it has no other mode; torch.onnx asks
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


# --- batch norm into convolutions


def fold(graph: GraphModule) -> int:
    """Every batch norm whose input is a convolution's output, and nobody else's, becomes part of it; how many did."""
    pairs = [
        (node.args[0], node)
        for node in graph.graph.nodes
        if node.target is BATCH_NORM and foldable(node)
    ]
    for index, (conv, norm) in enumerate(pairs):
        weight, bias = folded_weights(graph, conv, norm)
        for kind, value in (("weight", weight), ("bias", bias)):
            graph.register_parameter(
                f"folded_{index}_{kind}", nn.Parameter(value, requires_grad=False)
            )
        with graph.graph.inserting_before(conv):
            weight, bias = (
                graph.graph.get_attr(f"folded_{index}_{kind}") for kind in ("weight", "bias")
            )
        conv.args = (conv.args[0], weight, bias, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)
    return len(pairs)


def foldable(norm: Node) -> bool:
    """A convolution with weights of its own, read by this norm alone, and statistics that do not come from the batch."""
    conv, *values = norm.args[:6]
    fixed = norm.args[5] is False and all(
        value is None or value.op == "get_attr" for value in values[:4]
    )
    return (
        fixed
        and conv.target in CONVOLUTIONS
        and len(conv.users) == 1
        and conv.args[1].op == "get_attr"
    )


def folded_weights(graph: GraphModule, conv: Node, norm: Node) -> tuple[Tensor, Tensor]:
    """gamma / sqrt(variance + eps) * (w x + b - mean) + beta as one weight and one bias, computed in float64."""
    weight, bias = (tensor(graph, node) for node in (*conv.args, None)[1:3])
    gamma, beta, mean, variance = (tensor(graph, node) for node in norm.args[1:5])
    dtype, scale = weight.dtype, (variance.double() + norm.args[7]).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = (-mean if bias is None else bias - mean) * scale
    shift = shift if beta is None else shift + beta
    return (weight * scale.view(-1, *[1] * (weight.ndim - 1))).to(dtype), shift.to(dtype)


def tensor(graph: GraphModule, node: Node | None) -> Tensor | None:
    """What a get_attr node stands for."""
    if node is None:
        return None
    place, _, name = node.target.rpartition(".")
    return getattr(graph.get_submodule(place), name).detach()


# --- ONNX


def write_onnx(network: GraphModule, file: Path, says: Mapping[str, Any]) -> None:
    """One file: from "image" to "output", with `says` as its metadata; needs the packages of the extra "export"."""
    image = next(node for node in network.graph.nodes if node.op == "placeholder").meta["val"]
    image = torch.zeros(image.shape, dtype=image.dtype)
    program = torch.onnx.export(
        network,
        (image,),
        dynamo=True,
        input_names=["image"],
        output_names=["output"],
        verbose=False,
    )
    program.model.metadata_props.update({key: json.dumps(value) for key, value in says.items()})
    program.save(str(file))


class Runtime:
    """The file as a program without torch sees it, on the CPU."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # a refused size is raised, not printed as well
        self.session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self.says = {
            key: json.loads(value)
            for key, value in self.session.get_modelmeta().custom_metadata_map.items()
        }

    def __call__(self, image: Tensor) -> Tensor:
        """A size that is not the file's is a ValueError."""
        try:
            return torch.from_numpy(self.session.run(None, {"image": image.numpy()})[0])
        except Exception as problem:
            if "INVALID_ARGUMENT" not in str(problem):
                raise
            expected = "x".join(map(str, self.session.get_inputs()[0].shape))
            raise ValueError(
                f"the file takes an image of {expected}, not {'x'.join(map(str, image.shape))}"
            ) from problem


@dataclass(frozen=True)
class Verified:
    """How far a file is from its module, on an image of noise."""

    difference: float  # of a logit; with argmax: the share of pixels of another class
    limit: float
    parameters: int
    refusal: str  # what the file says to another size; empty where it takes it

    @property
    def ok(self) -> bool:
        return self.difference <= self.limit and bool(self.refusal)


def export_onnx(
    module: SegmentationModule,
    file: Path,
    size: tuple[int, int],
    says: Mapping[str, Any],
    *,
    uint8: bool = False,
    argmax: bool = False,
) -> Verified:
    """Write the network alone to a file, and compare the file with the module."""
    network = deployed(module, size, uint8=uint8, argmax=argmax)
    write_onnx(network, file, says)
    parameters = sum(each.numel() for each in network.parameters())
    return verify(module, Runtime(file), size, uint8, parameters)


def verify(
    module: SegmentationModule,
    runtime: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    uint8: bool,
    parameters: int,
) -> Verified:
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=noise)
    floats = module.normalized(image)
    image = image if uint8 else floats
    with torch.no_grad():
        logits = module(image)
    output, limit = runtime(image), limit_of(logits)
    of_classes = not output.is_floating_point()
    difference = difference_of(logits, output, limit)
    if difference > (0.0 if of_classes else limit):  # float64 takes seconds
        limit = max(limit, 20 * rounding(module, floats, logits))
        difference = difference_of(logits, output, limit)
    try:
        runtime(image[:, :, : max(1, size[0] // 2)])
        refusal = ""
    except ValueError as problem:
        refusal = f"refused: {problem}"
    return Verified(difference, 0.0 if of_classes else limit, parameters, refusal)


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
        fold(graph)
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
        limit = max(limit_of(logits), 20 * rounding(plain, image, logits))
    return difference_of(logits, output, limit), 0.0 if asked.what == "label" else limit


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


def limit_of(logits: Tensor) -> float:
    return LIMIT * max(1.0, logits.abs().max().item())


def rounding(network: nn.Module, image: Tensor, logits: Tensor) -> float:
    """How far a network's own float32 logits lie from its float64 ones.

    Iterations like EMANet's amplify it, in every runtime.
    """
    with torch.no_grad():
        return (copy.deepcopy(network).double()(image.double()) - logits).abs().max().item()


def difference_of(logits: Tensor, output: Tensor, limit: float) -> float:
    """The largest difference of a logit; of classes, the share of pixels with a clear error."""
    if output.is_floating_point():
        return (output - logits).abs().max().item()
    return clear_errors(logits, output, limit)


def clear_errors(logits: Tensor, label: Tensor, limit: float) -> float:
    """The share of pixels whose class is another than the largest logit's by more than rounding may turn."""
    chosen = logits.gather(1, label[:, None].long())[:, 0]
    return (logits.amax(1) - chosen > 2 * limit).float().mean().item()


def settled(module: "SegmentationModule", size: tuple[int, int]) -> None:
    """Running statistics of noise: with those of a fresh network, folding would change nothing."""
    for each in module.modules():
        if isinstance(each, torch.nn.modules.batchnorm._BatchNorm):
            each.momentum = 1.0  # one batch settles them
    with torch.no_grad():
        module.train().logits(
            module.padded(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))
        )
    module.eval()
