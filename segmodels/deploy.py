"""Networks for deployment, in torch and ONNX.

They have no training heads, and batch norm is folded into the convolutions. They take images of
one size, or of any.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule
from torch.fx.experimental import _config as symbolic_sizes

from segmodels.folding import folded
from segmodels.module import SegmentationModule

# The allowed difference of a deployed network from its module, as a share of the largest logit (or
# of 1, if all are smaller); it is at least 20 times the rounding error of the module itself.
LIMIT = 1e-4
# the network's own logits, logits at the image's size, or the class of each pixel
Output = Literal["logits", "full", "label"]
Size = tuple[int, int] | Literal["any"]
AXES = {0: "batch", 2: "height", 3: "width"}  # those that vary if a network takes any size
# Batches on which a file for any size is compared with its module; the first is exported.
COMPARED = ((2, 97, 131), (1, 33, 47), (1, 75, 101), (1, 151, 83), (3, 61, 35), (1, 129, 45))


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


# --- graphs


def deployed(
    module: SegmentationModule, size: Size, *, uint8: bool = False, argmax: bool = False
) -> GraphModule:
    """Return a graph for images (1, 3, *size), normalized floats or uint8 RGB.

    Any other size is refused. With "any" the graph takes batches of every size; where a network
    cannot, this is a ValueError. The graph shares no weights with the module, and holds only those
    that its output depends on.
    """
    dtype = torch.uint8 if uint8 else next(module.parameters()).dtype
    fits = COMPARED[0][1:] if size == "any" else size
    network = folded(copy.deepcopy(module).cpu(), fits)
    network = Deployed(network, "label" if argmax else "full")
    if size != "any":
        return graph_of(network, torch.zeros(1, 3, *size, dtype=dtype))
    with for_any_size(module):
        return graph_of(network, example(dtype), any_size=True)


def folded_logits(module: SegmentationModule, image: Tensor) -> GraphModule:
    """Return a graph of the network's own logits, for padded images of this image's size.

    It shares all weights with the module but those of folded convolutions.
    """
    network = folded(module, tuple(image.shape[-2:]))
    return graph_of(Logits(network), module.padded(image))


def graph_of(network: nn.Module, image: Tensor, any_size: bool = False) -> GraphModule:
    """Return a network as a graph for images of this shape, or for batches of any size."""
    with torch.no_grad():
        if any_size:
            graph = graph_for_any_size(network, image)
        else:
            graph = torch.export.export(network, (image,)).module()
    graph.training = False  # torch.onnx reads it; the graph has no other mode
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def graph_for_any_size(network: nn.Module, image: Tensor) -> GraphModule:
    """Return a network as a graph for batches of any size, or raise an AssertionError.

    The graph's conditions on sizes, which an ONNX file cannot hold, must be met by all sizes.
    """
    varying = dict.fromkeys(AXES, Dim.DYNAMIC)
    # As torch.onnx does: no condition that a side is not 1, which the graph's result is right for.
    with symbolic_sizes.patch(backed_size_oblivious=True):
        program = torch.export.export(network, (image,), dynamic_shapes=(varying,))
    conditions = program.module().get_submodule("_guards_fn")
    sides = (*range(33, 161, 4), *range(160, 520, 23), 1024, 2049, 4096)
    for height, width in zip(sides, reversed(sides)):
        for batch in (1, 2, 5):
            conditions(torch.empty(batch, 3, height, width, device="meta"))
    return program.module(check_guards=False)


def example(dtype: torch.dtype) -> Tensor:
    """Return the image that a network for any size is exported with."""
    batch, *size = COMPARED[0]
    return torch.zeros(batch, 3, *size, dtype=dtype)


@contextmanager
def for_any_size(module: SegmentationModule) -> Iterator[None]:
    """Turn what the export of a network for any size breaks at into one sentence."""
    try:
        yield
    except Exception as problem:  # torch, onnxscript and onnxruntime raise many kinds
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        name = module.identity.experiment or type(module).__name__
        raise ValueError(
            f"{name} cannot be exported for any size; give one, such as 512x1024 ({reason})"
        ) from problem


# --- ONNX


def write_onnx(network: GraphModule, file: Path, says: Mapping[str, Any]) -> None:
    """Write one file from "image" to "output", with `says` as its metadata.

    It needs the packages of the extra "export".
    """
    image = next(node for node in network.graph.nodes if node.op == "placeholder").meta["val"]
    any_size = not isinstance(image.shape[-1], int)
    program = torch.onnx.export(
        network,
        (example(image.dtype) if any_size else torch.zeros(image.shape, dtype=image.dtype),),
        dynamic_shapes=(AXES,) if any_size else None,
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
    """The comparison of a file with its module, on images of noise."""

    difference: float  # of a logit; with argmax: the share of pixels of another class
    limit: float
    parameters: int
    # a file's error for another size, or the sizes that it was compared at; empty if a file of one
    # size accepts another
    other_sizes: str

    @property
    def ok(self) -> bool:
        return self.difference <= self.limit and bool(self.other_sizes)


def export_onnx(
    module: SegmentationModule,
    file: str | Path,
    size: Size,
    *,
    uint8: bool = False,
    argmax: bool = False,
    name: str = "",
) -> Verified:
    """Write the network without its training heads, and compare the file with the module.

    The file takes images of one size, (height, width), or with "any" batches of every size; where
    a network cannot, this is a ValueError. `name` replaces the row's name in the file.
    """
    file = Path(file)
    network = deployed(module, size, uint8=uint8, argmax=argmax)
    parameters = sum(each.numel() for each in network.parameters())
    says = {
        "model": name or module.identity.experiment,
        "classes": list(module.identity.classes or ()),
        "input": "uint8 RGB" if uint8 else "normalized floats",
        "output": "class of each pixel" if argmax else "logits",
        "normalization": asdict(module.normalization),
    }
    if size != "any":
        write_onnx(network, file, says)
        return verify(module, Runtime(file), size, uint8, parameters)
    try:
        with for_any_size(module):
            write_onnx(network, file, says)
            return verify_any_size(module, Runtime(file), uint8, parameters)
    except ValueError:
        file.unlink(missing_ok=True)
        raise


def verify(
    module: SegmentationModule,
    runtime: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    uint8: bool,
    parameters: int,
) -> Verified:
    """Compare a file of one size with its module, and see that it refuses another."""
    difference, limit = difference_at(module, runtime, (1, *size), uint8)
    try:
        runtime(noise((1, max(1, size[0] // 2), size[1]), uint8))
        refusal = ""
    except ValueError as problem:
        refusal = f"refused: {problem}"
    return Verified(difference, limit, parameters, refusal)


def verify_any_size(
    module: SegmentationModule,
    runtime: Callable[[Tensor], Tensor],
    uint8: bool,
    parameters: int,
) -> Verified:
    """Compare a file for any size with its module at several; a difference is a ValueError."""
    largest = (0.0, 0.0)
    for batch, height, width in COMPARED:
        difference, limit = difference_at(module, runtime, (batch, height, width), uint8)
        if difference > limit:
            raise ValueError(
                f"at {height}x{width} the file computes something else: a difference of "
                f"{difference:.1e}, limit {limit:.1e}"
            )
        largest = max(largest, (difference, limit))
    sizes = ", ".join(f"{height}x{width}" for _, height, width in COMPARED)
    return Verified(*largest, parameters, f"any; compared at {sizes}")


def difference_at(
    module: SegmentationModule,
    runtime: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    uint8: bool,
) -> tuple[float, float]:
    """Return a file's difference from its module on noise (B, 3, H, W), and the allowed one."""
    image = noise(shape, uint8=True)
    floats = module.normalized(image)
    with torch.no_grad():
        logits = module(image)
    output = runtime(image if uint8 else floats)
    limit = limit_of(logits)
    of_classes = not output.is_floating_point()
    difference = difference_of(logits, output, limit)
    # The rounding is measured only if it matters: float64 takes seconds.
    if difference > (0.0 if of_classes else limit):
        limit = max(limit, 20 * rounding(module, floats, logits))
        difference = difference_of(logits, output, limit)
    # Folding rounds too, and where pooling compares two values a rounding decides: the file may
    # equal the folded network instead, if that is the module but for rounding.
    if difference > (0.0 if of_classes else limit) and folds_exactly(module, floats):
        with torch.no_grad():
            logits = folded(module, tuple(image.shape[-2:]))(image)
        difference = min(difference, difference_of(logits, output, limit))
    return difference, 0.0 if of_classes else limit


def folds_exactly(module: SegmentationModule, image: Tensor) -> bool:
    """Return whether folding changes nothing in float64, where rounding hides nothing."""
    exact = copy.deepcopy(module).double()
    image = image.double()
    with torch.no_grad():
        logits = exact(image)
        difference = (folded(exact, tuple(image.shape[-2:]))(image) - logits).abs().max()
    return bool(difference <= 1e-9 * max(1.0, logits.abs().max().item()))


def noise(shape: tuple[int, int, int], uint8: bool) -> Tensor:
    """Return the same random image (B, 3, H, W) each time, as uint8 or as floats."""
    generator = torch.Generator().manual_seed(0)
    batch, height, width = shape
    size = (batch, 3, height, width)
    if uint8:
        return torch.randint(256, size, dtype=torch.uint8, generator=generator)
    return torch.randn(size, generator=generator)


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
    with torch.no_grad():
        module.train().logits(module.padded(noise((2, *size), uint8=False)))
    module.eval()
