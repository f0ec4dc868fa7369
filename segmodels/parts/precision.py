"""The precision that "auto" stands for on this machine."""

import re
from pathlib import Path

import torch


def settled_precision(precision: str, accelerator: str = "auto", compiled: bool = False) -> str:
    """Return a Trainer's precision; "auto" is bfloat16 where the hardware computes in it.

    A network that is compiled for a CPU computes in float32: in bfloat16 torch 2.15 gives BiSeNet
    gradients that are no numbers.
    """
    if precision != "auto":
        return precision
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpu)
    half = computes_bfloat16(accelerator) and not (compiled and on_cpu)
    return "bf16-mixed" if half else "32-true"


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
