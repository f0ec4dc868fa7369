"""Add the options that all subjects share which print a table of costs."""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_table_options(add: Callable[..., argparse.Action]) -> None:
    """Add them to a parser's `add_argument`: the device, the table's form and where it goes."""
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto, the default: CUDA where there is one",
    )
    add(
        "--format",
        choices=("text", "markdown"),
        default="text",
        help="text for a terminal (default), or for a file",
    )
    add("--out", type=Path, metavar="FILE", help="a new JSON file with every figure and condition")
    add(
        "--stored",
        action="store_true",
        help="print the table of docs/SPEED.md, as it was measured last; measures nothing",
    )
