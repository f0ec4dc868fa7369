"""Networks whose logits are computed by onnxruntime, in every inference mode, on a CPU."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from segmodels.deploy import (
    Logits,
    Runtime,
    difference_of,
    graph_of,
    limit_of,
    rounding,
    write_onnx,
)
from segmodels.folding import folded
from segmodels.module import SegmentationModule

# files in memory: a mode with scales takes several, a folder of photos may take any number
KEPT = 8


def use_onnxruntime(module: SegmentationModule) -> None:
    """Have onnxruntime compute what the module evaluates and predicts from now on.

    It needs the packages of the extra "export". The module's training stays in torch.
    """
    precision = module.recipe.precision
    if precision != "32-true":
        raise ValueError(
            f"onnxruntime computes in 32-true, and this network in {precision}; "
            "give --precision 32-true, or leave out --runtime onnxruntime"
        )
    network = copy.copy(module.evaluated).eval()
    logits = OnnxLogits(network)

    def in_onnxruntime() -> SegmentationModule:
        form = copy.copy(module.evaluated)  # with the recipe of this moment
        form.logits = logits
        return form

    module.fast_form = in_onnxruntime
    module.runtime = "onnxruntime"
    module.computes_on = "cpu"


class OnnxLogits:
    """A network's own logits; a size of images that is new is exported first, within seconds."""

    def __init__(self, network: SegmentationModule) -> None:
        self.network = network
        self.runtimes: dict[tuple[int, ...], Runtime] = {}  # by the images' shape, newest last

    def __call__(self, image: Tensor) -> Tensor:
        shape = tuple(image.shape)
        runtime = self.runtimes.pop(shape, None) or self.exported(image)
        self.runtimes[shape] = runtime
        if len(self.runtimes) > KEPT:
            del self.runtimes[next(iter(self.runtimes))]
        return runtime(image)

    def exported(self, image: Tensor) -> Runtime:
        """Export the network for this shape, and compare the first result with torch's."""
        with torch.inference_mode(False), torch.no_grad():
            image = image.clone()  # one that torch.export takes
            network = Logits(self.network)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "network.onnx"
                form = Logits(folded(self.network, tuple(image.shape[-2:])))
                write_onnx(graph_of(form, image), file, {})
                runtime = Runtime(file)
            logits = network(image)
            limit = limit_of(logits)
            difference = difference_of(logits, runtime(image), limit)
            if difference > limit:  # the rounding is measured only if it matters
                limit = max(limit, 20 * rounding(network, image, logits))
        if not difference <= limit:  # so that NaN does not pass
            size = "x".join(map(str, image.shape[-2:]))
            raise ValueError(
                f"at {size} onnxruntime computes other logits than torch, by {difference:.1e} "
                f"(allowed: {limit:.1e}); leave out --runtime onnxruntime"
            )
        return runtime
