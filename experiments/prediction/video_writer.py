"""Pictures into a video, under another name until it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from experiments.command_line.errors import UserError, silenced_stderr
from experiments.drawing.label_images import strip_beside

H264 = "H.264"
CODECS = {
    ".mp4": {"avc1": H264, "mp4v": "MPEG-4"},
    ".webm": {"VP80": "VP8"},
}  # of OpenCV's wheels: avc1 only where the hardware encodes
THREADS = 4  # of the encoder
SLOWEST = 0.001  # frames per second; of fewer, PyAV would make another rate


class Writer(Protocol):
    def write(self, picture: np.ndarray) -> None: ...

    def close(self) -> None: ...


class Recording:
    """A video of pictures that is not there until `finish`."""

    def __init__(self, file: Path, rate: float, key: Image.Image | None = None) -> None:
        self.file, self.rate, self.key = file, rate, key
        self.partial = file.with_name(f".{file.stem}.partial{file.suffix}")
        self.writer: Writer | None = None
        self.codec, self.frames, self.strip = "", 0, None

    def add(self, picture: np.ndarray, due: int) -> None:
        """As often as it takes until `due` frames are there; a picture that comes too early for its rate is left out."""
        if self.key and self.strip is None:
            self.strip = strip_beside(self.key, picture.shape[0])
        picture = np.hstack([picture, self.strip]) if self.key else picture
        if self.writer is None:
            self.open(picture)
        pixels = np.ascontiguousarray(picture[: self.size[1], : self.size[0]])
        while self.frames < due:
            self.writer.write(pixels)
            self.frames += 1

    def open(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        self.size = (
            width // 2 * 2,
            height // 2 * 2,
        )  # every codec here stores colors of pixels by twos
        self.writer, self.codec = (
            writer_of(self.partial, self.rate, self.size) if all(self.size) else (None, "")
        )
        if self.writer is None:
            what = f"{width}x{height} pixels and {self.rate:.4g} frames per second"
            raise UserError(
                f"a video of {what} cannot be written to {self.file}; take --kinds color for pictures"
            )

    def finish(self) -> None:
        """OpenCV does not say when a disk is full, hence the count."""
        if self.writer is None:
            return
        self.writer.close()
        found = cv2.VideoCapture(str(self.partial.absolute()), cv2.CAP_FFMPEG).get(
            cv2.CAP_PROP_FRAME_COUNT
        )
        if found != self.frames:
            raise UserError(
                f"{self.file} could not be written: {self.frames} frames were given and {found:.0f} are there; is the disk full?"
            )
        self.partial.replace(self.file)

    def discard(self) -> None:
        if self.writer is not None:
            with suppress(OSError):  # what is thrown away need not be whole
                self.writer.close()
        self.partial.unlink(missing_ok=True)

    def described(self) -> str:
        if self.writer is None:
            return ""
        return f" ({self.size[0]}x{self.size[1]}, {self.frames} frame{'s' * (self.frames > 1)}, {self.rate:.4g} per second, {self.codec})"

    def remarks(self) -> Iterator[str]:
        if self.codec == "MPEG-4":
            yield f'{self.file.name} plays in players and in no browser: pip install -e ".[video]" for H.264, or take --format webm'


# --- encoders


def writer_of(file: Path, rate: float, size: tuple[int, int]) -> tuple[Writer | None, str]:
    """The first that can, and what its codec is called."""
    if file.suffix == ".mp4" and rate >= SLOWEST and h264_there():
        return PyAV(file, rate, size), H264
    for code, codec in CODECS[file.suffix].items():
        writer = OpenCV(file, code, rate, size)
        if writer.video.isOpened():
            return writer, codec
    return None, ""


def h264_there() -> bool:
    """Whether the extra "video" is installed, with its encoder."""
    try:
        import av
    except ImportError:
        return False
    return "libx264" in av.codecs_available


class PyAV:
    """H.264. Its colors are marked as what they are: browsers take those of a large video without a mark for other ones."""

    def __init__(self, file: Path, rate: float, size: tuple[int, int]) -> None:
        import av

        self.frame, self.problem = av.VideoFrame.from_ndarray, av.FFmpegError
        with self.as_os_error():
            self.video = av.open(
                str(file.absolute()), "w", options={"movflags": "+faststart"}
            )  # plays before all of it is there
            options = {"preset": "veryfast", "crf": "20"}
            self.stream = self.video.add_stream(
                "libx264", rate=Fraction(rate).limit_denominator(10_000), options=options
            )
        self.stream.width, self.stream.height, self.stream.pix_fmt = *size, "yuv420p"
        context = self.stream.codec_context
        context.thread_count, context.color_range = THREADS, 1  # 16 to 235
        context.colorspace = context.color_primaries = context.color_trc = (
            6  # BT.601, which FFmpeg makes of RGB
        )

    def write(self, picture: np.ndarray) -> None:
        with self.as_os_error():
            self.video.mux(self.stream.encode(self.frame(picture, format="rgb24")))

    def close(self) -> None:
        if self.video is None:
            return
        video, self.video = self.video, None
        with self.as_os_error():
            try:
                video.mux(self.stream.encode())
            finally:
                video.close()

    @contextmanager
    def as_os_error(self) -> Iterator[None]:
        """What FFmpeg cannot do is about the file or its disk."""
        try:
            yield
        except self.problem as problem:
            raise OSError(
                f"the video could not be written ({problem.strerror}); make room, or give another --out"
            ) from problem


class OpenCV:
    def __init__(self, file: Path, code: str, rate: float, size: tuple[int, int]) -> None:
        with silenced_stderr():
            self.video = cv2.VideoWriter(
                str(file.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), rate, size
            )

    def write(self, picture: np.ndarray) -> None:
        self.video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self.video.release()
