"""The mIoU of a network on corrupted images and other data sets, alone and against another network.

CD and rCD are those of Kamann and Rother, arXiv:1908.05005, in the form of ImageNet-C's corruption
error and its relative one.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datamodules.corruptions import GROUPS, KINDS, SEVERITIES, SUITE, Corrupted
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
        return share(mean(self.kinds[kind].values()), self.clean)

    @property
    def mean_relative(self) -> float:
        return mean(self.relative(kind) for kind in self.kinds)

    def content(self) -> dict[str, Any]:
        """Everything for a JSON file; `read` computes the shares again from the scores."""
        content = asdict(self)
        if not self.clean:  # nothing is a share of it
            return content
        if self.kinds:
            content["relative"] = {kind: self.relative(kind) for kind in self.kinds}
            content["mean_relative"] = self.mean_relative
        others = {name: share(miou, self.clean) for name, miou in self.others.items()}
        return content | {"others_relative": others}


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def measure(
    images: Source,
    miou_of: Callable[[Source], float],
    kinds: Sequence[str] = KINDS,
    severities: Sequence[int] = SEVERITIES,
    others: Mapping[str, Source] | None = None,
    setting: Mapping[str, Any] | None = None,
) -> Robustness:
    """Evaluate every kind in every severity, after what may be refused: images without labels."""

    def labeled(source: Source, name: str) -> float:
        if math.isnan(miou := miou_of(source)):
            raise UserError(
                f"no pixel of {name} has a label: there is nothing to evaluate; "
                "see the labels with experiments/check_data.py"
            )
        return miou

    clean = labeled(images, "the images")
    elsewhere = {}
    for name, source in with_progress((others or {}).items(), "other data sets"):
        elsewhere[name] = labeled(source, name)
    scores: dict[str, dict[int, float]] = {kind: {} for kind in kinds}
    pairs = [(kind, severity) for kind in kinds for severity in severities]
    for kind, severity in with_progress(pairs, "corrupted images"):
        scores[kind][severity] = miou_of(Corrupted(images, kind, severity))
    return Robustness(clean, scores, elsewhere, dict(setting or {}))


# --- against another network


@dataclass(frozen=True)
class Degradation:
    """A share of what the reference loses: below 1 the network stands more.

    None where the reference loses nothing.
    """

    cd: float | None = None
    rcd: float | None = None


def degradation(result: Robustness, reference: Robustness) -> dict[str, Degradation]:
    """CD compares sums of 1 - mIoU over the severities, rCD of what is lost from the clean mIoU."""
    check_comparable(reference, result.setting, result.kinds)
    found = {}
    for kind, scores in result.kinds.items():
        counted = NOISE_SEVERITIES if kind in GROUPS["noise"] else SEVERITIES
        severities = [severity for severity in scores if severity in counted]
        ours = [scores[severity] for severity in severities]
        theirs = [reference.kinds[kind][severity] for severity in severities]
        lost = sum(result.clean - miou for miou in ours)
        their_loss = sum(reference.clean - miou for miou in theirs)
        their_error = sum(1 - miou for miou in theirs)
        if severities:
            found[kind] = Degradation(
                sum(1 - miou for miou in ours) / their_error if their_error else None,
                lost / their_loss if their_loss > 0 else None,
            )
    return found


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
    lacking = [
        kind
        for kind, severities in kinds.items()
        if not set(severities) <= set(reference.kinds.get(kind, ()))
    ]
    if lacking:
        raise UserError(
            f"the reference lacks {', '.join(lacking)} in some severity: "
            "evaluate it with the same kinds and severities"
        )


def read(file: Path) -> Robustness:
    """Read a file that --shift wrote."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))["shift"]
        kinds = {
            kind: {int(severity): miou for severity, miou in scores.items()}
            for kind, scores in content["kinds"].items()
        }
        suite = content.get("suite")
        result = Robustness(content["clean"], kinds, content["others"], content["setting"])
    except OSError as problem:
        raise UserError(
            f"{file} cannot be read ({problem.strerror}); give a file that --shift wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} holds no --shift result; give a file that --shift wrote") from None
    if suite != SUITE:
        raise UserError(
            f"{file} was made with another suite of corruptions than {SUITE}; "
            "evaluate that network again with --shift"
        )
    return result
