"""Networks for deployment, in torch and ONNX.

They have one image size and no training heads, and batch norm is folded into the convolutions.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
# The allowed difference of a deployed network from its module, as a share of the largest logit (or
# of 1, if all are smaller); it is at least 20 times the rounding error of the module itself.
LIMIT = 1e-4
# the network's own logits, logits at the image's size, or the class of each pixel
Output = Literal["logits", "full", "label"]


# --- modules from an image to an output


class Logits(nn.Module):
    """A network up to its own logits, for padded, normalized images."""

    def __init__(self, module: SegmentationModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        return self.module.logits(image)


class Deployed(nn.Module):
    """A network with one of its outputs; `network` may compute the same logits in another form."""

    def __init__(
        self, module: SegmentationModule, output: Output, network: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.module = module
        self.output = output
        self.network = network or Logits(module)

    def forward(self, image: Tensor) -> Tensor:
        if self.output == "logits":
            return self.network(self.module.padded(image))
        logits = self.module(image, self.network)
        return logits.argmax(1).to(torch.uint8) if self.output == "label" else logits


# --- graphs of one image size


def deployed(
    module: SegmentationModule, size: tuple[int, int], *, uint8: bool = False, argmax: bool = False
) -> GraphModule:
    """Return a graph for images (1, 3, *size), normalized floats or uint8 RGB.

    Any other size is refused. The graph shares no weights with the module, and holds only those
    that its output depends on.
    """
    dtype = torch.uint8 if uint8 else next(module.parameters()).dtype
    image = torch.zeros(1, 3, *size, dtype=dtype)
    module = copy.deepcopy(module).cpu().eval()
    return folded_graph(Deployed(module, "label" if argmax else "full"), image)


def folded_logits(module: SegmentationModule, image: Tensor) -> GraphModule:
    """Return a graph of the network's own logits, for padded images of this image's size.

    It shares all weights with the module but those of folded convolutions.
    """
    return folded_graph(Logits(module), module.padded(image))


def folded_graph(network: nn.Module, image: Tensor) -> GraphModule:
    """Return a network as a graph for images of this shape, with batch norm folded."""
    with torch.no_grad():
        graph = torch.export.export(network, (image,)).module()
        fold(graph)
    graph.training = False  # torch.onnx reads it; the graph has no other mode
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


# --- batch norm into convolutions


def fold(graph: GraphModule) -> int:
    """Fold every batch norm into its convolution, if nothing else reads that; return the number."""
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
            weight = graph.graph.get_attr(f"folded_{index}_weight")
            bias = graph.graph.get_attr(f"folded_{index}_bias")
        conv.args = (conv.args[0], weight, bias, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)
    return len(pairs)


def foldable(norm: Node) -> bool:
    """Return whether a norm has fixed statistics and is the only reader of a convolution."""
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
    """Return gamma / sqrt(variance + eps) * (w x + b - mean) + beta as one weight and one bias.

    They are computed in float64.
    """
    weight = tensor(graph, conv.args[1])
    bias = tensor(graph, conv.args[2]) if len(conv.args) > 2 else None
    gamma, beta, mean, variance = (tensor(graph, node) for node in norm.args[1:5])
    scale = (variance.double() + norm.args[7]).rsqrt()
    if gamma is not None:
        scale = scale * gamma
    shift = (-mean if bias is None else bias - mean) * scale
    if beta is not None:
        shift = shift + beta
    of_channel = scale.view(-1, *[1] * (weight.ndim - 1))  # (C,) -> (C, 1, 1, 1)
    return (weight * of_channel).to(weight.dtype), shift.to(weight.dtype)


def tensor(graph: GraphModule, node: Node | None) -> Tensor | None:
    """Return the tensor that a get_attr node stands for."""
    if node is None:
        return None
    place, _, name = node.target.rpartition(".")
    return getattr(graph.get_submodule(place), name).detach()


# --- ONNX


def write_onnx(network: GraphModule, file: Path, says: Mapping[str, Any]) -> None:
    """Write one file from "image" to "output", with `says` as its metadata.

    It needs the packages of the extra "export".
    """
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
    """An ONNX file in onnxruntime on the CPU, as a program without torch would use it."""

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
        """Compute the output; an image of another size than the file's is a ValueError."""
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
    """The comparison of a file with its module, on an image of noise."""

    difference: float  # of a logit; with argmax: the share of pixels of another class
    limit: float
    parameters: int
    refusal: str  # the file's error for another size; empty if it accepts it

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
    """Write the network without its training heads, and compare the file with the module."""
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
    """Compare a file with its module on an image of noise."""
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=noise)
    floats = module.normalized(image)
    image = image if uint8 else floats
    with torch.no_grad():
        logits = module(image)
    output = runtime(image)
    limit = limit_of(logits)
    of_classes = not output.is_floating_point()
    difference = difference_of(logits, output, limit)
    # The rounding is measured only if it matters: float64 takes seconds.
    if difference > (0.0 if of_classes else limit):
        limit = max(limit, 20 * rounding(module, floats, logits))
        difference = difference_of(logits, output, limit)
    try:
        runtime(image[:, :, : max(1, size[0] // 2)])
        refusal = ""
    except ValueError as problem:
        refusal = f"refused: {problem}"
    return Verified(difference, 0.0 if of_classes else limit, parameters, refusal)


# --- comparison of a deployed network with its module


def clear_errors(logits: Tensor, label: Tensor, limit: float) -> float:
    """Return the share of pixels whose class differs by more than rounding can explain."""
    chosen = logits.gather(1, label[:, None].long())[:, 0]  # (B, C, H, W) -> (B, H, W)
    return (logits.amax(1) - chosen > 2 * limit).float().mean().item()


def limit_of(logits: Tensor) -> float:
    """Return the allowed difference of an output from these logits."""
    return LIMIT * max(1.0, logits.abs().max().item())


def difference_of(logits: Tensor, output: Tensor, limit: float) -> float:
    """Return the largest difference of a logit, or the share of clear errors of classes."""
    if output.is_floating_point():
        return (output - logits).abs().max().item()
    return clear_errors(logits, output, limit)


def rounding(network: nn.Module, image: Tensor, logits: Tensor) -> float:
    """Return the largest difference of the float32 logits from the same network's in float64.

    Iterations such as EMANet's amplify it, in every runtime.
    """
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(image.double())
    return (exact - logits).abs().max().item()


def difference_to_plain(
    network: Deployed,
    plain: SegmentationModule,
    image: Tensor,
    compiled: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[float, float]:
    """Compare a fast form with the plain network in float32 without TF32.

    The result is the difference and the allowed difference.
    """
    fast = compiled_whole(network) if compiled else network
    reference = Deployed(plain, "logits" if network.output == "logits" else "full")
    with torch.no_grad(), without_tf32():
        logits = reference(image)
        output = fast(image.contiguous(memory_format=memory_format))
        limit = max(limit_of(logits), 20 * rounding(reference, image, logits))
    return difference_of(logits, output, limit), 0.0 if network.output == "label" else limit


def compiled_whole(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile a network as one graph; whatever cannot be compiled is an error."""
    torch._dynamo.config.recompile_limit = 1000  # each network and precision counts as one
    return torch.compile(network, fullgraph=True, dynamic=False)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute in full float32 on a GPU too."""
    settings = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in settings]
    for each in settings:
        each.allow_tf32 = False
    try:
        yield
    finally:
        for each, was in zip(settings, before):
            each.allow_tf32 = was


def settle_batch_norm(module: SegmentationModule, size: tuple[int, int]) -> None:
    """Set the running statistics to those of noise, so that folding a fresh network matters."""
    for each in module.modules():
        if isinstance(each, torch.nn.modules.batchnorm._BatchNorm):
            each.momentum = 1.0  # one batch settles them
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        module.train().logits(module.padded(noise))
    module.eval()
