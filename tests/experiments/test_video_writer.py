"""Tests of video_writer.py: a video is complete or absent, keeps its colors, plays in browsers."""

import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from experiments.command_line.errors import UserError
from experiments.prediction.video_writer import VideoWriter, video_writer
from segmodels.module import SegmentationModule
from tests.support.pictures import noise, refused, run
from tests.support.videos import held, near, overlaid, rate_of, seen, video

CODES = {"H.264": "h264", "VP8": "vp80"}  # as OpenCV names what it finds in a file


@pytest.fixture(params=["street.mp4", "street.webm"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def code_of(file: Path) -> str:
    number = int(cv2.VideoCapture(str(file), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FOURCC))
    return number.to_bytes(4, "little").decode().lower().replace("avc1", "h264")


def write(file: Path, pictures: list[np.ndarray], rate: float = 10) -> VideoWriter:
    with video_writer(file, rate) as writer:
        for place, picture in enumerate(pictures):
            writer.add(picture, place + 1)
    return writer


@pytest.mark.parametrize("rate", [0.5, 12.5, 30000 / 1001, 60])
@pytest.mark.parametrize("count", [1, 2, 31])
def test_a_video_has_its_frames_and_its_rate(count: int, rate: float, file: Path) -> None:
    writer = write(file, [noise(48, 64, seed) for seed in range(count)], rate)
    assert len(seen(file)) == count and rate_of(file) == pytest.approx(rate, rel=1e-3)
    assert CODES[writer.codec] == code_of(file)
    assert held(file.parent) == {file.name}


def test_every_frame_is_the_picture_that_was_written(file: Path) -> None:
    pictures = [noise(96, 128, seed) for seed in range(12)]
    write(file, pictures)
    for place, picture in enumerate(seen(file)):
        distances = [near(picture, each) for each in pictures]
        assert int(np.argmin(distances)) == place and distances[place] < 15


def test_colors_of_flat_areas_are_kept(file: Path) -> None:
    """The legend's colors must be found again in the picture."""
    colors = np.array([(128, 64, 128), (220, 20, 60), (107, 142, 35), (0, 0, 142)], np.uint8)
    write(file, [colors.repeat(32, 0)[None].repeat(64, 0)] * 4)
    for picture in seen(file):
        assert np.abs(picture[32, 16::32].astype(int) - colors).max() <= 8


def test_odd_sides_lose_a_row(file: Path) -> None:
    write(file, [noise(49, 67)] * 2)
    assert [picture.shape for picture in seen(file)] == [(48, 66, 3)] * 2


def test_until_it_is_whole_a_video_has_another_name(file: Path) -> None:
    with pytest.raises(KeyboardInterrupt), video_writer(file, 10) as writer:
        writer.add(noise(48, 64), 60)
        writer.container.close()  # an encoder's first packets may come late
        assert held(file.parent) == {f".{file.name}.partial"}
        raise KeyboardInterrupt
    assert held(file.parent) == set()


def test_a_picture_too_small_for_a_video_is_refused(file: Path) -> None:
    sentence = "a video of 1x40 pixels and 10 frames per second cannot be written"
    with pytest.raises(UserError, match=sentence), video_writer(file, 10) as writer:
        writer.add(noise(40, 1), 1)
    assert held(file.parent) == set()


def test_browsers_take_its_colors_for_what_they_are(tmp_path: Path) -> None:
    """A browser takes the colors of a large video without a mark for other ones."""
    write(tmp_path / "street.mp4", [noise(48, 64)] * 2)
    with av.open(str(tmp_path / "street.mp4")) as container:
        context = container.streams.video[0].codec_context
        marks = (context.colorspace, context.color_primaries, context.color_trc)
        assert (*marks, context.color_range) == (6, 6, 6, 1)
        assert context.pix_fmt == "yuv420p"


def test_an_mp4_begins_with_its_index(tmp_path: Path) -> None:
    """A browser would wait for an index at the end."""
    write(tmp_path / "street.mp4", [noise(48, 64)] * 2)
    data = (tmp_path / "street.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_disk_is_said(file: Path) -> None:
    (file.parent / f".{file.name}.partial").symlink_to("/dev/full")
    sentence = (
        r"the video could not be written \(No space left on device\); "
        "make room, or give another --out"
    )
    with pytest.raises(UserError, match=sentence), video_writer(file, 10) as writer:
        writer.add(noise(480, 640), 1)
    assert held(file.parent) == set()


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "VP8"), ("mp4", "H.264")])
def test_the_format_is_the_one_that_was_asked_for(
    suffix: str,
    codec: str,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:
    frames = video(tmp_path / "drive.avi", frames=6, code="MJPG")
    capfd.readouterr()
    words = ("--out", tmp_path / "out", "--format", suffix, "--legend")
    assert run(network[0], tmp_path / "drive.avi", *words) == 0
    printed = capfd.readouterr()
    assert f"drive.{suffix}" in printed.out and f"6 frames, 10 per second, {codec})" in printed.out
    assert printed.err == ""  # FFmpeg's own remarks are no reader's
    found = seen(tmp_path / "out" / f"drive.{suffix}")
    assert held(tmp_path / "out") == {f"drive.{suffix}", "legend.png"} and len(found) == 6
    assert all(
        near(picture[:, :96], overlaid(network[1], frame)) < 25
        for picture, frame in zip(found, frames)
    )


def test_a_rate_of_the_source_is_kept_exactly(tmp_path: Path) -> None:
    write(tmp_path / "street.mp4", [noise(48, 64)] * 30, Fraction(30000, 1001))
    with av.open(str(tmp_path / "street.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)


def test_without_pyav_videos_are_refused_in_one_sentence(
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video(tmp_path / "drive.avi", frames=2, code="MJPG")
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    for source in (tmp_path / "drive.avi", "camera:0"):
        sentence = refused(capsys, tmp_path, network[0], source, "--out", tmp_path / "out")
        assert 'videos and cameras need PyAV: pip install "segmodels[video]"' in sentence
