"""Figures that tables of papers cite of methods without a network here: nobody released theirs."""

from dataclasses import dataclass

from experiments.records.results import PublishedFigure
from experiments.reports.paper_table import Row

EMANET = "EMANet's paper, as study notes on it quote its table"
# Of PASCAL Context they print no figure of PSPNet.
TABLES = {
    ("context", ()): (
        ("MSCI", "ResNet-152", 50.3),
        ("SGR", "ResNet-101", 50.8),
        ("CCL", "ResNet-101", 51.6),
        ("SGR+", "ResNet-101", 52.5),  # trained on COCO-Stuff first
    ),
    ("cocostuff", (("release", "10k"),)): (
        ("CCL", "ResNet-101", 35.7),
        ("DSSPN", "ResNet-101", 37.3),
        ("SGR", "ResNet-101", 39.1),
    ),
}


@dataclass(frozen=True)
class CitedRow(Row):
    """A row of a method that has no network here; nobody can measure it."""

    @property
    def status(self) -> str:
        return "cited"


def cited() -> list[Row]:
    rows = []
    for (data, options), methods in TABLES.items():
        for method, backbone, miou in methods:
            figure = PublishedFigure(
                miou, data, "test", "scales not stated", EMANET, options=dict(options)
            )
            place = {"data": data, "split": "test", "protocol": figure.protocol}
            overrides = {f"data.{name}": value for name, value in options}
            name = f"{method} ({backbone})"
            rows.append(
                CitedRow(name, method, None, **place, overrides=overrides, figures=[figure])
            )
    return rows
