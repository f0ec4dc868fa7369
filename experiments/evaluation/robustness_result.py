"""What a network loses where the camera sees worse, and on other data sets: the run over kinds and severities, its table and pictures."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.corruptions import GROUPS, KINDS, SEVERITIES, Shifted
from datamodules.progress import with_progress
from datamodules.reading.sources import Source
from experiments.command_line.catalogue import catalogue
from experiments.command_line.errors import UserError
from experiments.command_line.names import known_name

if TYPE_CHECKING:
    pass


Scores = Mapping[str, Any]  # what judging a source found, "miou" among it
Judge = Callable[[Source], Scores]
NOISE_SEVERITIES = (
    1,
    2,
    3,
)  # Kamann and Rother's rule, as SegFormer follows it (quoted in issue 71 of NVlabs/SegFormer)
COLORS = ("#2a78d6", "#d9622b", "#1f9e77", "#8e5bb5")


@dataclass(frozen=True)
class Shift:
    """mIoU of one network: clean, under each kind and severity, and on other data sets; `setting` is what two of them must share."""

    clean: float
    kinds: dict[str, dict[int, float]]
    others: dict[str, float] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)

    @property
    def severities(self) -> tuple[int, ...]:
        return tuple(sorted({severity for found in self.kinds.values() for severity in found}))

    def relative(self, kind: str) -> float:
        """What is left of the clean mIoU, as the mean over the severities."""
        return share(mean(self.kinds[kind].values()), self.clean)

    @property
    def left(self) -> float:
        """What is left of the clean mIoU, as the mean over the kinds."""
        return mean(self.relative(kind) for kind in self.kinds)

    def content(self) -> dict[str, Any]:
        """For a JSON file; `read` takes it back, and recomputes what follows from the scores."""
        if not self.clean:  # nothing is a share of it
            return asdict(self)
        left = (
            {
                "relative": {kind: self.relative(kind) for kind in self.kinds},
                "mean_relative": self.left,
            }
            if self.kinds
            else {}
        )
        return (
            asdict(self)
            | left
            | {
                "others_relative": {
                    name: share(miou, self.clean) for name, miou in self.others.items()
                }
            }
        )

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Shift":
        kinds = {
            kind: {int(severity): miou for severity, miou in found.items()}
            for kind, found in content["kinds"].items()
        }
        return cls(content["clean"], kinds, dict(content["others"]), dict(content["setting"]))


def shift(
    source: Source,
    judge: Judge,
    kinds: Sequence[str] = KINDS,
    severities: Sequence[int] = SEVERITIES,
    *,
    others: Mapping[str, Source] | None = None,
    setting: Mapping[str, Any] | None = None,
    reference: Shift | None = None,
    seed: int = 0,
) -> Shift:
    """What cannot be judged, or not be compared with the reference, fails before the long part."""
    setting = {**(setting or {}), "images": len(source), "shift_seed": seed}
    if reference:
        comparable(
            Shift(0.0, {kind: dict.fromkeys(severities, 0.0) for kind in kinds}, {}, setting),
            reference,
        )
    clean, others = measured(judge(source)["miou"], "the images"), others or {}
    cells = [(kind, severity) for kind in kinds for severity in severities]
    found: dict[str, dict[int, float]] = {kind: {} for kind in kinds}
    elsewhere = {
        name: measured(judge(other)["miou"], name)
        for name, other in with_progress(others.items(), "other data sets")
    }
    for kind, severity in with_progress(cells, "shifting"):
        found[kind][severity] = judge(Shifted(source, kind, severity, seed))["miou"]
    return Shift(clean, found, elsewhere, setting)


def measured(miou: float, what: str) -> float:
    if math.isnan(miou):
        raise UserError(
            f"no pixel of {what} has a label: there is nothing to judge; see the labels with experiments/check_data.py"
        )
    return miou


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


# --- against another network


@dataclass(frozen=True)
class Degradation:
    """Kamann and Rother's, a share of what the reference loses: below 1 the network stands more. None where the reference loses nothing.

    Both have the form of ImageNet-C's corruption error and its relative one; the paper (arXiv:1908.05005) is recalled, not seen again.
    """

    cd: float | None
    rcd: float | None


def degradation(result: Shift, reference: Shift) -> dict[str, Degradation]:
    """CD: sums of 1 - mIoU over the severities, by kind; rCD: of what is lost from clean. Of noise the first three severities count."""
    comparable(result, reference)
    return {
        kind: against(result, reference, kind) for kind in result.kinds if counted(result, kind)
    }


def against(result: Shift, reference: Shift, kind: str) -> Degradation:
    sums = []
    for each in (result, reference):
        scores = [each.kinds[kind][severity] for severity in counted(result, kind)]
        sums.append((sum(1 - miou for miou in scores), sum(each.clean - miou for miou in scores)))
    (error, lost), (their_error, their_loss) = sums
    return Degradation(
        error / their_error if their_error else None, lost / their_loss if their_loss > 0 else None
    )


def counted(result: Shift, kind: str) -> list[int]:
    return [
        severity
        for severity in result.kinds[kind]
        if kind not in GROUPS["noise"] or severity in NOISE_SEVERITIES
    ]


def comparable(result: Shift, reference: Shift) -> None:
    """Refuses a reference of other images or another protocol, or one that lacks what is compared."""
    for name in sorted(result.setting.keys() | reference.setting.keys()):
        ours, theirs = result.setting.get(name), reference.setting.get(name)
        if ours != theirs:
            raise UserError(
                f"the reference's {name} is {theirs} and not {ours}: shift both networks in the same way"
            )
    lacking = [
        kind
        for kind, found in result.kinds.items()
        if not found.keys() <= reference.kinds.get(kind, {}).keys()
    ]
    if lacking:
        raise UserError(
            f"the reference lacks {', '.join(lacking)} in some severity: shift it with the same kinds and severities"
        )


def read(file: Path) -> Shift:
    """A result that was written before, to compare with."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Shift.of(content.get("shift", content))
    except OSError as problem:
        raise UserError(
            f"{file} cannot be read ({problem.strerror}); give a file that --shift wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} holds no shift; give a file that --shift wrote") from None


def places(text: str) -> dict[str, Path]:
    """ "acdc=DIR,bdd100k=DIR" as folders by data set."""
    found: dict[str, Path] = {}
    for word in text.split(","):
        name, equals, folder = (part.strip() for part in word.partition("="))
        if not (equals and name and folder):
            raise UserError(
                f"--across {text}: {word.strip() or 'nothing'} is not understood; write NAME=DIR,NAME=DIR, such as acdc=DIR"
            )
        name = known_name("data set", name, list(catalogue()["data"]))
        if name in found:
            raise UserError(f"--across {text}: {name} is named twice; give it one folder")
        if not Path(folder).expanduser().is_dir():
            raise UserError(
                f"--across {text}: there is no folder {folder}; give the folder that holds {name}"
            )
        found[name] = Path(folder).expanduser()
    return found
