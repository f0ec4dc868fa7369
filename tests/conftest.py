"""Options and fixtures of all tests.

Libraries are quiet, there is one kind of processor, and the environment has no data sets, W&B key
or terminal of the machine's user.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch and its friends are imported: no network, no telemetry, no threads beyond the
# machine's.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: one thread for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # results are compared bit for bit with the CPU's
if sys.platform == "linux":
    os.environ.setdefault(
        "GLOO_SOCKET_IFNAME", "lo"
    )  # processes that train together need no machine that knows its own name
os.environ["WANDB__SERVICE_WAIT"] = (
    "300"  # seconds for its own process to start; a busy machine needs more than the usual 30
)
for name in ("CITYSCAPES_DATASET", "WANDB_API_KEY", "SEGMODELS_RUN"):
    os.environ.pop(name, None)
for name in (
    "COLUMNS",
    "LINES",
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
):  # how wide and colored a terminal is
    os.environ.pop(name, None)

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--camvid",
        metavar="DIR",
        default=None,
        help="a CamVid folder, written --camvid=DIR: also run what wants real images",
    )
    parser.addoption(
        "--weights",
        metavar="DIR",
        default=None,
        help="real ImageNet and face weights and pictures, written --weights=DIR",
    )


@pytest.fixture(autouse=True)
def same_randomness() -> None:
    torch.manual_seed(0)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """What several tests share is the same too, whichever of them asks for it first."""
    if fixturedef.scope != "function":
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run of four tiny steps, made when first asked for; tests read it
    and write nothing into it.
    """
    from experiments import run

    runs = tmp_path_factory.mktemp("runs")
    assert (
        run.main(
            [
                "--model",
                "bisenet/xception39",
                "--smoke",
                "trainer.wandb=disabled",
                "--runs",
                str(runs),
            ]
        )
        == 0
    )
    return next(runs.iterdir())


@pytest.fixture
def opencv_threads() -> Iterator[Callable[[int], None]]:
    """Sets their number, and in the end what it was."""
    import cv2

    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


@pytest.fixture
def once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[object], bool]:
    """Whether a test of this name is the first to ask about something, in all processes of this
    run.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def first(thing: object) -> bool:
        said = f"{request.node.originalname} {thing!r}"
        try:
            (folder / hashlib.sha256(said.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    return first


@pytest.fixture(autouse=True)
def counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's inference parameters, which every result names: half a second each time, and
    always the same of the same network.
    """
    if scoring := sys.modules.get("experiments.evaluation.score"):
        monkeypatch.setattr(scoring, "inference_parameters", once_of_each_network)


def once_of_each_network(network: object, num_classes: int) -> int:
    from segmodels.paper import Experiment, inference_parameters

    if not isinstance(network, Experiment):
        return inference_parameters(network, num_classes)
    key = network.network, str(network.model), num_classes
    COUNTED[key] = COUNTED.get(key) or inference_parameters(network, num_classes)
    return COUNTED[key]


COUNTED: dict[tuple[object, str, int], int] = {}


@pytest.fixture(autouse=True)
def no_run_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMODELS_RUN", raising=False)
