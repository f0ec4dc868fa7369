"""The precision that "auto" stands for on this machine."""

import re
from pathlib import Path

import torch
from torch import nn


def settled_precision(
    precision: str, network: nn.Module, accelerator: str = "auto", compiled: bool = False
) -> str:
    """Return a Trainer's precision; "auto" is bfloat16 where hardware and network allow it.

    A network that is compiled for a CPU computes in float32: in bfloat16 torch 2.15 gives BiSeNet
    gradients that are no numbers.
    """
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpu)
    if on_cpu and precision.startswith("bf16"):
        check_bfloat16(network)
    if precision != "auto":
        return precision
    wrong = on_cpu and (compiled or has_dilated_depthwise(network))
    return "bf16-mixed" if computes_bfloat16(accelerator) and not wrong else "32-true"


def has_dilated_depthwise(network: nn.Module) -> bool:
    """Return whether a convolution by channels is dilated.

    Its gradient in bfloat16 on a CPU is wrong by any factor in torch 2.15, in channels last: oneDNN
    leaves memory unwritten.
    """
    return any(
        isinstance(each, nn.Conv2d)
        and each.groups == each.in_channels > 1
        and max(each.dilation) > 1
        for each in network.modules()
    )


def check_bfloat16(network: nn.Module) -> None:
    """Refuse to train on a CPU in bfloat16 what would get wrong gradients there."""
    if has_dilated_depthwise(network):
        raise ValueError(
            f"recipe.precision is bf16-mixed, in which a CPU computes wrong gradients of "
            f"{type(network).__name__}'s dilated depthwise convolutions; take 32-true, or a GPU"
        )


def uses_cuda(accelerator: str) -> bool:
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def computes_bfloat16(accelerator: str) -> bool:
    if uses_cuda(accelerator):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    return (
        accelerator in ("auto", "cpu")
        and info.exists()
        and re.search("avx512_bf16|amx_bf16", info.read_text()) is not None
    )
