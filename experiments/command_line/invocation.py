"""The commands by name, and the words that this process was started with."""

import re
import sys
from pathlib import Path

COMMANDS = {
    "run": "train a paper's network by its recipe, and evaluate it",
    "evaluate": "score a trained network on a data set, in any inference mode",
    "predict": "segment images, videos and cameras with a trained network",
    "benchmark": "measure frames per second, losses and data loading on this machine",
    "export": "write a trained network to an ONNX file",
    "report": "print the table paper / ours, compare two evaluations, draw speeds",
    "pack": "write a data set into packs, from which crops are read faster",
    "check_data": "look for damage, wrong ids and leaks in a data set before training on it",
    "fidelity": "compare every released layout with the authors' code",
}
# "python experiments/run.py", and "run.py" for short
SCRIPT = re.compile(rf"(?:python experiments/|\b(?<![/.-]))({'|'.join(COMMANDS)})\.py\b")


def as_started(text: str) -> str:
    """The text with "segmodels run" in place of run.py if this process was started by that name."""
    return SCRIPT.sub(rf"{program()} \1", text) if program() else text


def program() -> str:
    """The words before a command's name; empty where its file was started as a script."""
    module = sys.modules["__main__"].__spec__  # None without -m
    if Path(sys.argv[0]).stem == "segmodels":
        return "segmodels"
    if module and module.name.startswith("experiments."):
        return "python -m experiments"
    return ""
