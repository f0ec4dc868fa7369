"""Videos and cameras in, videos of overlays out."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, repeat, takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.sampling.threads import prefetch, write_behind
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.networks import ReleasedCheckpoint
from experiments.prediction.images import Pictures, Predictor, bar, keep, prepare
from experiments.prediction.inputs import CAMERA, camera_number, public
from experiments.prediction.outputs import IN_COLOR, place_of
from experiments.prediction.video_writer import Recording

USUAL_RATE = 25.0
PATIENCE = 250  # frames in a row that cannot be decoded, before a file counts as ended
TIMEOUT = 10_000  # milliseconds that a stream may stay silent


def film(
    source: Path | ReleasedCheckpoint,
    targets: Sequence[tuple[Path | str, Path]],
    kinds: Sequence[str],
    asked: Any,
) -> int:
    quiet()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what fails is said here, in a sentence
    with as_user_error():
        first = reel_of(targets[0][0], asked)
        for each, _ in targets[1:]:  # all can be opened, before the network is read
            reel_of(each, asked).close()
        predictor = Predictor(source, kinds, asked)
        prepare(asked.out, predictor.key if IN_COLOR & set(kinds) else None, targets, kinds)
    with Interruption() as interruption:
        filmed(first, targets[0][1], predictor, asked, interruption)
        for each, name in targets[1:]:
            if not interruption.asked:
                filmed(reel_of(each, asked), name, predictor, asked, interruption)
    return 0


def filmed(
    reel: "Reel", name: Path, predictor: Predictor, asked: Any, interruption: "Interruption"
) -> None:
    """One video or camera from its first frame to its last, or to Ctrl-C."""
    recording = Recording(asked.out / name, reel.rate, predictor.key if asked.legend else None)
    predictor.passes.clear()
    begun, done = time.perf_counter(), 0
    batches = together(islice(reel.frames(interruption), asked.frames), asked.batch)
    try:
        with bar(f"{reel}", reel.expected(asked.frames)) as step, write_behind(1) as later:
            for batch in batches if reel.live else read_ahead(batches):
                for frame, found in zip(batch, predictor([each.image for each in batch])):
                    later(develop, asked.out, name, frame, found, predictor, recording)
                done += len(batch)
                step(len(batch))
                if interruption.asked:
                    break
        seconds = time.perf_counter() - begun
        if not done:
            raise UserError(f"{reel} gave no frame{reel.bounds()}; nothing of it was written")
        with as_user_error():
            recording.finish()
    except BaseException:
        recording.discard()
        raise
    finally:
        reel.close()
    report(reel, name, done, predictor, recording, asked, interruption.asked)
    print(predictor.speed("frames", done, seconds), flush=True)


def report(
    reel: "Reel",
    name: Path,
    done: int,
    predictor: Predictor,
    recording: Recording,
    asked: Any,
    stopped: bool,
) -> None:
    places = [str(place_of(asked.out, kind, name)) for kind in predictor.kinds]
    print(
        f"{reel}: {done} frame{'s' * (done > 1)}{', stopped by Ctrl-C' * stopped}: {', '.join(places)}{recording.described()}"
    )
    for said in (*reel.remarks(), *recording.remarks()):
        print(said)


def develop(
    out: Path,
    name: Path,
    frame: "Frame",
    found: Pictures,
    predictor: Predictor,
    recording: Recording,
) -> None:
    with as_user_error():
        for kind, picture in predictor.pictures(frame.image, found).items():
            if kind == "overlay":
                recording.add(picture, frame.due)
                continue
            folder = place_of(out, kind, name)
            folder.mkdir(exist_ok=True)
            keep(picture, folder / f"{frame.number:06d}.png")


# --- in


@dataclass(frozen=True)
class Frame:
    number: int  # in the source
    image: np.ndarray  # RGB
    due: (
        int  # frames that the recording holds with this one, so that it plays as fast as the source
    )


class Reel:
    """An opened video file."""

    live = False

    def __init__(self, name: str, capture: cv2.VideoCapture, asked: Any) -> None:
        self.name, self.capture, self.asked = name, capture, asked
        said = capture.get(cv2.CAP_PROP_FPS)
        self.known_rate = 0 < said <= 1000
        self.source_rate = said if self.known_rate else USUAL_RATE
        self.rate = self.source_rate / (asked.every or 1)
        self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # as the header says
        self.damaged, self.missing, self.other_size = 0, 0, 0

    def __str__(self) -> str:
        return self.name

    def close(self) -> None:
        self.capture.release()

    def first(self) -> int:
        return round((self.asked.start or 0) * self.source_rate)

    def end(self) -> float:
        return np.inf if self.asked.end is None else self.asked.end * self.source_rate

    def bounds(self) -> str:
        """Where its frames were looked for."""
        ending = f" (it ends at {self.count / self.source_rate:.4g} s)" if self.count else ""
        return f" between --start and --end{ending}" if self.asked.start or self.asked.end else ""

    def expected(self, most: int | None) -> int | None:
        """Frames to be predicted, for the bar; a file that does not say how many it holds has none."""
        if not self.count:
            return most
        inside = max(0, min(self.count, self.end()) - self.first())
        return int(min(-(-inside // (self.asked.every or 1)), most or np.inf))

    def frames(self, _: Any) -> Iterator[Frame]:
        """Those that are wanted. What comes before --start is decoded too: a jump into a video lands beside the frame."""
        good_until, size, taken = 0, None, 0
        for place in count():
            failed = place - good_until
            if place >= self.end() or failed >= PATIENCE or (failed and place >= self.count):
                break
            wanted = place >= self.first() and (place - self.first()) % (self.asked.every or 1) == 0
            good, image = self.capture.read() if wanted else (self.capture.grab(), None)
            if not good:
                continue
            self.damaged, good_until = self.damaged + failed, place + 1
            if wanted and (size or image.shape) != image.shape:
                self.other_size += 1
            elif wanted:
                size, taken = image.shape, taken + 1
                yield Frame(place, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), taken)
        self.missing = max(0, self.count - good_until) if place < self.end() else 0

    def remarks(self) -> Iterator[str]:
        """What a person must know who trusts the result."""
        if not self.known_rate:
            yield f"{self} does not say its rate: {USUAL_RATE:g} frames per second were taken"
        if self.damaged:
            yield f"{self}: {self.damaged} damaged frames could not be decoded and were left out"
        if self.missing:
            yield f"{self} ended {self.missing} frames before the number that its header says"
        if self.other_size:
            yield f"{self}: {self.other_size} frames of another size than the first were left out"


class Camera(Reel):
    """A camera or stream: a thread reads on while the network computes, so that the frame taken is always the newest."""

    live = True

    def __init__(self, name: str, capture: cv2.VideoCapture, asked: Any) -> None:
        super().__init__(name, capture, asked)
        self.newest: tuple[int, float, np.ndarray] | None = None
        self.arrived, self.over = threading.Condition(), False
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def end(self) -> float:
        return np.inf if self.asked.end is None else self.asked.end

    def expected(self, most: int | None) -> int | None:
        return most

    def watch(self) -> None:
        number = 0
        while not self.over:
            good, image = self.capture.read()
            with self.arrived:
                self.over = self.over or not good
                if good:
                    self.newest, number = (number, time.monotonic(), image), number + 1
                self.arrived.notify()

    def frames(self, interruption: "Interruption") -> Iterator[Frame]:
        self.thread.start()
        begun, size = None, None
        while (newest := self.next(interruption)) is not None:
            number, now, image = newest
            begun, size = begun or now, size or image.shape
            if now - begun >= self.end():
                return
            if image.shape == size:
                yield Frame(
                    number,
                    cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
                    round((now - begun) * self.rate) + 1,
                )
            else:
                self.other_size += 1

    def next(self, interruption: "Interruption") -> tuple[int, float, np.ndarray] | None:
        """The newest frame that was not taken yet; None when there are no more."""
        with self.arrived:
            while self.newest is None and not self.over and not interruption.asked:
                self.arrived.wait(0.2)
            newest, self.newest = self.newest, None
        return None if interruption.asked else newest

    def close(self) -> None:
        self.over = True
        self.thread.join(2 * TIMEOUT / 1000) if self.thread.is_alive() else None
        super().close()


def reel_of(source: Path | str, asked: Any) -> Reel:
    """A file; an address, which may lead to a file too; or a camera by its number."""
    if isinstance(source, Path):
        capture = cv2.VideoCapture(
            str(source.absolute()), cv2.CAP_FFMPEG
        )  # absolute: FFmpeg takes "12:30.mp4" for an address
        remedy = "it is damaged, cut off, or of a kind that OpenCV cannot decode; convert it, for example to MP4, or leave it out"
    elif source.startswith(CAMERA):
        capture = cv2.VideoCapture(camera_number(source.removeprefix(CAMERA)))
        remedy = (
            "no camera of that number is free; is it plugged in, and does another program use it?"
        )
    else:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        remedy = f"nothing answered there within {TIMEOUT // 1000} s, or it is no video; try the address in a player"
    name = public(str(source))
    if not capture.isOpened():
        raise UserError(f"{name} cannot be opened: {remedy}")
    whole = isinstance(source, Path) or capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
    return (Reel if whole else Camera)(name, capture, asked)


def together(frames: Iterator[Frame], most: int) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, most)):
        yield batch


def read_ahead(batches: Iterator[list[Frame]]) -> Iterator[list[Frame]]:
    """Decoded by one thread while the network computes."""
    return takewhile(bool, prefetch(lambda _: next(batches, []), repeat(None), threads=1))


# --- stopping


class Interruption:
    """Ctrl-C once asks to stop, and what is begun is finished; a second one ends at once."""

    def __init__(self) -> None:
        self.asked, self.before = False, None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # no other thread may listen
            self.before = signal.signal(signal.SIGINT, self.heard)
        return self

    def heard(self, *_: Any) -> None:
        self.asked = True
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # whatever it was before, such as ignored in the background
        os.write(
            2, b"\nstopping; the video is being finished (Ctrl-C again ends at once)\n"
        )  # print may be what it interrupts

    def __exit__(self, *_: Any) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
