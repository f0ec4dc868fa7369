"""Folders that tests read: the project, and the authors' numbers."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "experiments/results/reference"
