"""Write pictures into a video by PyAV, under another name until it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from experiments.command_line.errors import UserError
from experiments.command_line.files import whole
from experiments.drawing.label_images import strip_beside
from experiments.reports.number_formats import plural

# suffix -> FFmpeg's encoder, the codec's usual name, options of the encoder and of the file
ENCODERS = {
    ".mp4": ("libx264", "H.264", {"preset": "veryfast", "crf": "20"}, {"movflags": "+faststart"}),
    ".webm": ("libvpx", "VP8", {"crf": "10", "b": "50M", "cpu-used": "4"}, {}),
}
SLOWEST = 0.001  # frames per second; of fewer, FFmpeg would make another rate
MPEG_RANGE = 1  # colors from 16 to 235
BT601 = 6  # the colors that FFmpeg makes of RGB


class VideoWriter:
    """A video that is begun with its first picture, whose size is the video's."""

    def __init__(
        self, partial: Path, file: Path, rate: Fraction | float, key: Image.Image | None
    ) -> None:
        encoder, self.codec, options, movflags = ENCODERS[file.suffix]
        self.file = file
        self.rate = float(rate)
        self.key = key
        self.frames = 0
        self.size: tuple[int, int] | None = None
        self.container = av.open(str(partial), "w", format=file.suffix[1:], options=movflags)
        rate = Fraction(rate).limit_denominator(10_000)
        self.stream = self.container.add_stream(encoder, rate=rate, options=options)
        self.stream.pix_fmt = "yuv420p"
        # Browsers take the colors of a large video without these marks for other ones.
        self.stream.color_range = MPEG_RANGE
        self.stream.colorspace = BT601
        self.stream.color_primaries = BT601
        self.stream.color_trc = BT601

    def add(self, picture: np.ndarray, due: int) -> None:
        """Write RGB as often as it takes until `due` frames are there, so not if it is early."""
        if self.size is None:
            self.begin(picture)
        width, height = self.size
        pixels = np.hstack([picture, self.strip])[:height, :width]
        while self.frames < due:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            self.container.mux(self.stream.encode(frame))
            self.frames += 1

    def begin(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        self.strip = np.zeros((height, 0, 3), np.uint8)
        if self.key:
            self.strip = strip_beside(self.key, height)
            width += self.strip.shape[1]
        # The codecs store colors of pixels by twos: an odd side loses a row.
        self.size = (width // 2 * 2, height // 2 * 2)
        if not all(self.size) or self.rate < SLOWEST:
            raise UserError(
                f"a video of {width}x{height} pixels and {self.rate:.4g} frames per second "
                f"cannot be written to {self.file}; take --kinds color for pictures"
            )
        self.stream.width, self.stream.height = self.size

    def __str__(self) -> str:
        width, height = self.size
        return (
            f"{width}x{height}, {plural(self.frames, 'frame')}, "
            f"{self.rate:.4g} per second, {self.codec}"
        )


@contextmanager
def video_writer(
    file: Path, rate: Fraction | float, key: Image.Image | None = None
) -> Iterator[VideoWriter]:
    """A writer of a .mp4 or .webm that is there when all is written, or not at all.

    `key` is a legend to stand beside the pictures.
    """
    with whole(file) as partial:
        try:
            writer = VideoWriter(partial, file, rate, key)
            with writer.container:
                yield writer
                writer.container.mux(writer.stream.encode())  # what the encoder still holds
        except av.FFmpegError as problem:
            raise UserError(
                f"{file}: the video could not be written ({problem.strerror}); "
                "make room, or give another --out"
            ) from problem
