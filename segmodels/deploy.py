"""A network as it is deployed: one size, no training heads, batch norm inside its convolutions; and its way to ONNX."""

import copy
import json
from collections.abc import Mapping
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
        weight, bias = folded(graph, conv, norm)
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


def folded(graph: GraphModule, conv: Node, norm: Node) -> tuple[Tensor, Tensor]:
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
