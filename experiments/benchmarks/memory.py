"""Measure how much memory a piece of work takes beside what was there before."""

import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from experiments.command_line.errors import silenced_stderr

MIB = 2**20


def peak_mebibytes(work: Callable[[], object], device: str = "cpu") -> float:
    """Return the highest sum of allocations of torch not yet freed."""
    return peak_on_cuda(work) if device == "cuda" else peak_on_cpu(work)


def peak_on_cuda(work: Callable[[], object]) -> float:
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def peak_on_cpu(work: Callable[[], object]) -> float:
    """Read the allocations out of the profiler's trace."""
    from torch.profiler import ProfilerActivity, profile

    # torch 2.11 warns without acc_events
    settings = {"profile_memory": True, "acc_events": True}
    with silenced_stderr(), profile(activities=[ProfilerActivity.CPU], **settings) as record:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = [event for event in events if event.get("name") == "[memory]"]
    allocations.sort(key=lambda event: event["ts"])
    held = accumulate(event["args"]["Bytes"] for event in allocations)
    return max(held, default=0) / MIB
