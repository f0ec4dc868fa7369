"""The mIoU of a network on corrupted images and other data sets, alone and against another network.

CD and rCD are those of Kamann and Rother, arXiv:1908.05005, in the form of ImageNet-C's corruption
error and its relative one.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from datamodules.corruptions import GROUPS, SEVERITIES, SUITE, Corrupted
from datamodules.progress import with_progress
from datamodules.reading.sources import Source
from experiments.command_line.errors import UserError

# Kamann and Rother's rule, as SegFormer follows it (quoted in issue 71 of NVlabs/SegFormer).
NOISE_SEVERITIES = (1, 2, 3)


@dataclass(frozen=True)
class Robustness:
    """mIoU of one network: clean, by kind and severity, and on other data sets."""

    clean: float
    kinds: dict[str, dict[int, float]]
    others: dict[str, float] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)  # what two that are compared must share
    suite: str = SUITE

    @property
    def severities(self) -> list[int]:
        return sorted({severity for scores in self.kinds.values() for severity in scores})

    def relative(self, kind: str) -> float:
        """The share of the clean mIoU that is left, as the mean over the severities."""
        return self.share(mean(self.kinds[kind].values()))

    def share(self, miou: float) -> float:
        return miou / self.clean if self.clean else math.nan

    def content(self) -> dict[str, Any]:
        """Everything for a JSON file, with the shares of a clean mIoU, which `read` passes over."""
        content = asdict(self)
        if not self.clean:  # nothing is a share of it
            return content
        if self.kinds:
            relative = {kind: self.relative(kind) for kind in self.kinds}
            content |= {"relative": relative, "mean_relative": mean(relative.values())}
        others = {name: self.share(miou) for name, miou in self.others.items()}
        return content | {"others_relative": others}


def mean(values: Iterable[float | None]) -> float:
    """The mean of the known values, nan where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def measure(
    images: Source,
    miou_of: Callable[[Source], float],
    kinds: Sequence[str],
    severities: Sequence[int],
    others: Mapping[str, Source],
    setting: dict[str, Any],
) -> Robustness:
    """Evaluate every kind in every severity, after what may be refused: images without labels."""
    clean = {}
    sources = {"the images": images, **others}
    for name, source in with_progress(sources.items(), "clean images"):
        clean[name] = miou_of(source)
        if math.isnan(clean[name]):
            raise UserError(
                f"no pixel of {name} has a label: there is nothing to evaluate; "
                "see the labels with experiments/check_data.py"
            )
    scores: dict[str, dict[int, float]] = {kind: {} for kind in kinds}
    pairs = [(kind, severity) for kind in kinds for severity in severities]
    for kind, severity in with_progress(pairs, "corrupted images"):
        scores[kind][severity] = miou_of(Corrupted(images, kind, severity))
    return Robustness(clean.pop("the images"), scores, clean, setting)


# --- against another network


class Degradation(NamedTuple):
    """A share of what the reference loses: below 1 the network stands more.

    None where the reference loses nothing.
    """

    cd: float | None = None
    rcd: float | None = None


def degradation(result: Robustness, reference: Robustness) -> dict[str, Degradation]:
    """CD compares sums of 1 - mIoU over the severities, rCD of what is lost from the clean mIoU."""
    check_comparable(reference, result.setting, result.kinds)
    compared = {}
    for kind, scores in result.kinds.items():
        counted = NOISE_SEVERITIES if kind in GROUPS["noise"] else SEVERITIES
        severities = [severity for severity in scores if severity in counted]
        if severities:
            ours = [scores[severity] for severity in severities]
            theirs = [reference.kinds[kind][severity] for severity in severities]
            compared[kind] = Degradation(
                loss_ratio(ours, theirs, 1, 1),
                loss_ratio(ours, theirs, result.clean, reference.clean),
            )
    return compared


def loss_ratio(
    ours: Sequence[float], theirs: Sequence[float], best: float, their_best: float
) -> float | None:
    """What ours lack to their best, as a share of what theirs do."""
    lost = sum(their_best - miou for miou in theirs)
    return sum(best - miou for miou in ours) / lost if lost > 0 else None


def check_comparable(
    reference: Robustness, setting: Mapping[str, Any], kinds: Mapping[str, Iterable[int]]
) -> None:
    """Refuse a reference of other images or another protocol, or one that lacks a severity."""
    for name in sorted(setting.keys() | reference.setting.keys()):
        ours, theirs = setting.get(name), reference.setting.get(name)
        if ours != theirs:
            raise UserError(
                f"the reference's {name} is {theirs} and not {ours}: "
                "evaluate both networks in the same way"
            )
    measured = reference.kinds
    if lacking := [kind for kind in kinds if set(kinds[kind]) - set(measured.get(kind, ()))]:
        raise UserError(
            f"the reference lacks {', '.join(lacking)} in some severity: "
            "evaluate it with the same kinds and severities"
        )


def read(file: Path) -> Robustness:
    """Read a file that --shift wrote."""
    remedy = "give a file that --shift wrote"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))["shift"]
        result = TypeAdapter(Robustness).validate_python(content)
    except OSError as problem:
        raise UserError(f"{file} cannot be read ({problem.strerror}); {remedy}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} holds no --shift result; {remedy}") from None
    if content.get("suite") != SUITE:
        raise UserError(
            f"{file} was made with another suite of corruptions than {SUITE}; "
            "evaluate that network again with --shift"
        )
    return result
