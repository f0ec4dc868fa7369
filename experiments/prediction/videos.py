"""Predict videos, cameras and streams, which PyAV (FFmpeg) reads, into videos of overlays."""

import argparse
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, repeat, takewhile
from pathlib import Path
from types import FrameType

import av
import numpy as np

from datamodules.progress import with_progress
from datamodules.thread_pools import prefetch, write_behind
from experiments.command_line.errors import UserError, as_user_error, quiet
from experiments.command_line.networks import Checkpoint
from experiments.prediction.inputs import CAMERA, Target, camera_device, without_password
from experiments.prediction.outputs import output_path
from experiments.prediction.predictor import Pictures, Predictor, prepare_out, write_picture
from experiments.prediction.video_writer import video_writer
from experiments.reports.number_formats import plural

USUAL_RATE = Fraction(25)
TIMEOUT = 10.0  # seconds that a stream may stay silent


@dataclass(frozen=True)
class Frame:
    number: int  # in the source
    image: np.ndarray  # RGB
    due: int  # frames of the written video up to this one, so that it is as fast as the source


class VideoFile:
    """An opened video file: its wanted frames, and what was wrong with the others."""

    live = False

    def __init__(
        self, name: str, container: av.container.InputContainer, args: argparse.Namespace
    ) -> None:
        self.name = name
        self.container = container
        self.stream = container.streams.best("video")
        self.every = args.every or 1
        self.start = args.start or 0
        self.end = math.inf if args.end is None else args.end
        rate = self.stream.guessed_rate or 0
        self.says_rate = 0 < rate <= 1000
        self.source_rate = rate if self.says_rate else USUAL_RATE
        self.rate = self.source_rate / self.every
        self.seconds = (container.duration or 0) / av.time_base  # 0 if the header does not say
        self.damaged = 0
        self.missing = 0
        self.size: dict[str, int] = {}

    def expected(self, args: argparse.Namespace) -> int | None:
        """The number of batches, for the progress bar."""
        count = args.frames or math.inf
        if self.seconds:
            count = min(count, (min(self.seconds, self.end) - self.start) * self.rate)
        return None if count == math.inf else math.ceil(max(0, count) / args.batch)

    def decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Every frame with its number; a packet that cannot be decoded is a damaged frame."""
        number = 0
        with self.container, suppress(av.FFmpegError):  # of reading: there a cut file ends
            for packet in self.container.demux(self.stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self.damaged += 1
                    number += 1
                    continue
                for frame in frames:
                    yield number, frame
                    number += 1
        self.missing = max(0, self.stream.frames - number)

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """The wanted frames. Those before --start are decoded too: seeking is inexact."""
        self.stream.thread_type = "AUTO"
        first = round(self.start * self.source_rate)
        due = 0
        for number, frame in self.decoded():
            if number >= self.end * self.source_rate:
                return
            if number >= first and (number - first) % self.every == 0:
                due += 1
                yield Frame(number, self.rgb(frame), due)

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Upright, as a player shows it. A size that changes is scaled to the first frame's."""
        self.size = self.size or {"width": frame.width, "height": frame.height}
        return np.rot90(frame.to_ndarray(format="rgb24", **self.size), frame.rotation // 90)

    def remarks(self) -> Iterator[str]:
        """What a person must know who trusts the result."""
        if not self.says_rate:
            yield f"{self.name} does not say its rate: {USUAL_RATE} frames per second were taken"
        if self.damaged:
            left_out = f"{self.damaged} damaged frames could not be decoded and were left out"
            yield f"{self.name}: {left_out}"
        if self.missing:
            yield (
                f"{self.name} ended {self.missing} frames before the number that its header says"
            )


class Camera(VideoFile):
    """A camera or stream: a thread reads on meanwhile, so that each frame is the newest."""

    live = True

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        newest: deque[tuple[float, int, av.VideoFrame]] = deque(maxlen=1)
        over = threading.Event()

        def read() -> None:
            for number, frame in self.decoded():
                newest.append((time.monotonic(), number, frame))
                if over.is_set():
                    return

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        begun = None
        try:
            while not stop.is_set():
                ended = not reader.is_alive()
                if newest:
                    now, number, frame = newest.pop()
                    begun = begun or now
                    if now - begun >= self.end:
                        return
                    yield Frame(number, self.rgb(frame), round((now - begun) * self.rate) + 1)
                elif ended:
                    return
                else:
                    time.sleep(0.005)
        finally:
            over.set()
            reader.join(2 * TIMEOUT)


def open_video(source: Path | str, args: argparse.Namespace) -> VideoFile:
    """A file; an address, which may lead to a file too; or a camera."""
    path = str(source)
    name = without_password(path)
    settings = {}
    remedy = (
        f"nothing answered there within {TIMEOUT:.0f} s, or it is no video; "
        "try the address in a player"
    )
    if isinstance(source, Path):
        path = str(source.absolute())  # FFmpeg takes "12:30.mp4" for an address
        remedy = (
            "it is damaged, cut off, or of a kind that FFmpeg cannot decode; "
            "convert it, for example to MP4, or leave it out"
        )
    elif path.startswith(CAMERA):
        path = camera_device(path)
        settings["format"] = "avfoundation" if sys.platform == "darwin" else "v4l2"
        remedy = (
            "no camera of that number is free; is it plugged in, and does another program use it?"
        )
    elif path.startswith("rtsp"):
        settings["options"] = {"rtsp_flags": "prefer_tcp"}  # UDP loses packets
    refusal = UserError(f"{name} cannot be opened: {remedy}")
    try:
        container = av.open(path, timeout=TIMEOUT, **settings)
    except (av.FFmpegError, ValueError):
        raise refusal from None
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:  # only sound, or an unknown codec
        raise refusal
    is_file = isinstance(source, Path) or container.duration
    return (VideoFile if is_file else Camera)(name, container, args)


# --- predicting


def predict_videos(
    source: Checkpoint,
    targets: Sequence[Target],
    args: argparse.Namespace,
) -> int:
    quiet()
    with as_user_error():
        videos = [open_video(file, args) for file, _ in targets]
        predictor = Predictor(source, args)
    prepare_out(args.out, predictor)
    with stop_on_ctrl_c() as stop:
        for video, (_, name) in zip(videos, targets):
            if not stop.is_set():
                predict_video(video, name, predictor, args, stop)
    return 0


def predict_video(
    video: VideoFile,
    name: Path,
    predictor: Predictor,
    args: argparse.Namespace,
    stop: threading.Event,
) -> None:
    """Predict a video or camera from its first frame to its last, or to Ctrl-C."""
    predictor.passes.clear()
    begun = time.perf_counter()
    writing = nullcontext()
    if "overlay" in predictor.kinds:
        key = predictor.legend if args.legend else None
        writing = video_writer(args.out / name, video.rate, key)
    frames = islice(video.frames(stop), args.frames)
    batches = ([frame] for frame in frames) if video.live else read_batches(frames, args.batch)
    with writing as writer:

        def write(frame: Frame, maps: Pictures) -> None:
            for kind, picture in predictor.pictures(frame.image, maps).items():
                if kind == "overlay":
                    writer.add(picture, frame.due)
                else:
                    folder = output_path(args.out, kind, name)
                    write_picture(picture, folder / f"{frame.number:06d}.png")

        with write_behind(1) as submit:
            for batch in with_progress(batches, video.name, video.expected(args)):
                maps = predictor([frame.image for frame in batch])
                for each in zip(batch, maps):
                    submit(write, *each)
                if stop.is_set():
                    break
        done = predictor.count()
        if not done:
            where = ""
            if (args.start or args.end) and video.seconds:
                where = f" between --start and --end (it ends at {video.seconds:.4g} s)"
            raise UserError(f"{video.name} gave no frame{where}; nothing of it was written")
    seconds = time.perf_counter() - begun
    places = ", ".join(str(output_path(args.out, kind, name)) for kind in predictor.kinds)
    print(
        f"{video.name}: {plural(done, 'frame')}"
        f"{', stopped by Ctrl-C' * stop.is_set()}: {places}{f' ({writer})' if writer else ''}"
    )
    print(*video.remarks(), predictor.speed("frames", seconds), sep="\n", flush=True)


def read_batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """Decode in one thread while the network computes."""

    def next_batch(_: None) -> list[Frame]:
        return list(islice(frames, size))

    return takewhile(bool, prefetch(next_batch, repeat(None), threads=1))


@contextmanager
def stop_on_ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C once asks to stop, and what is begun is finished; a second one ends at once."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # print may be what it interrupts
        os.write(2, b"\nstopping; the video is being finished (Ctrl-C again ends at once)\n")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
