"""recording.py: a video is whole or not there, keeps its colors, and is of a codec that browsers play where one is at hand."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.command_line.errors import UserError
from experiments.prediction.video_writer import H264, Recording, h264_there
from segmodels.module import SegmentationModule
from tests.support.pictures import noise, run
from tests.support.videos import held, near, overlaid, rate_of, seen, video

H264_OR_SKIP = pytest.mark.skipif(not h264_there(), reason="the extra 'video' is not installed")
CODES = {
    "H.264": "h264",
    "MPEG-4": "FMP4",
    "VP8": "VP80",
}  # as OpenCV names what it finds in a file


@pytest.fixture(params=["opencv.mp4", "opencv.webm", pytest.param("pyav.mp4", marks=H264_OR_SKIP)])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """To be recorded by each encoder in turn."""
    if "opencv" in request.param:
        monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    return tmp_path / request.param


def code_of(file: Path) -> str:
    number = int(cv2.VideoCapture(str(file), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FOURCC))
    return number.to_bytes(4, "little").decode()


def recorded(file: Path, pictures: list[np.ndarray], rate: float = 10) -> Recording:
    made = Recording(file, rate)
    for place, picture in enumerate(pictures):
        made.add(picture, place + 1)
    made.finish()
    return made


@pytest.mark.parametrize("rate", [0.5, 12.5, 30000 / 1001, 60])
@pytest.mark.parametrize("count", [1, 2, 31])
def test_a_video_has_its_frames_and_its_rate(count: int, rate: float, file: Path) -> None:
    made = recorded(file, [noise(48, 64, seed) for seed in range(count)], rate)
    assert len(seen(file)) == count and rate_of(file) == pytest.approx(rate, rel=1e-3)
    assert CODES[made.codec].lower() == code_of(file).replace("avc1", "h264").lower()
    assert held(file.parent) == {file.name}


def test_colors_of_flat_areas_are_kept(file: Path) -> None:
    """The legend's colors must be found again in the picture."""
    colors = np.array([(128, 64, 128), (220, 20, 60), (107, 142, 35), (0, 0, 142)], np.uint8)
    recorded(file, [colors.repeat(32, 0)[None].repeat(64, 0)] * 4)
    for picture in seen(file):
        assert np.abs(picture[32, 16::32].astype(int) - colors).max() <= 8


def test_odd_sides_lose_a_row(file: Path) -> None:
    recorded(file, [noise(49, 67)] * 2)
    assert [picture.shape for picture in seen(file)] == [(48, 66, 3)] * 2


def test_until_it_is_whole_a_video_has_another_name(file: Path) -> None:
    made = Recording(file, 10)
    made.add(noise(48, 64), 1)
    made.writer.close()  # PyAV begins a file with its first packet
    assert held(file.parent) == {f".{file.stem}.partial{file.suffix}"}
    made.discard()
    assert held(file.parent) == set()


def test_a_picture_too_small_for_a_video_is_refused(file: Path) -> None:
    with pytest.raises(
        UserError, match="a video of 1x40 pixels and 10 frames per second cannot be written"
    ):
        Recording(file, 10).add(noise(40, 1), 1)


@H264_OR_SKIP
def test_h264_marks_its_colors_and_begins_with_its_index(tmp_path: Path) -> None:
    """A browser takes the colors of a large video without a mark for other ones, and waits for an index at the end."""
    import av

    recorded(tmp_path / "street.mp4", [noise(48, 64)] * 2)
    with av.open(str(tmp_path / "street.mp4")) as video:
        context = video.streams.video[0].codec_context
        assert (
            context.colorspace,
            context.color_primaries,
            context.color_trc,
            context.color_range,
        ) == (6, 6, 6, 1)
        assert context.pix_fmt == "yuv420p"
    data = (tmp_path / "street.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@H264_OR_SKIP
def test_a_disk_that_h264_fills_is_said(tmp_path: Path) -> None:
    made = Recording(tmp_path / "street.mp4", 10)
    made.partial.symlink_to(
        "/dev/full" if os.path.exists("/dev/full") else pytest.skip("no full device here")
    )
    with pytest.raises(
        OSError,
        match=r"the video could not be written \(No space left on device\); make room, or give another --out",
    ):
        made.add(noise(480, 640), 1)
        made.writer.close()


def test_the_format_is_the_one_that_was_asked_for(
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:
    frames = video(tmp_path / "drive.avi", frames=6, code="MJPG")
    assert (
        run(
            network[0],
            tmp_path / "drive.avi",
            "--out",
            tmp_path / "out",
            "--format",
            "webm",
            "--legend",
        )
        == 0
    )
    printed = capfd.readouterr()
    assert "drive.webm" in printed.out and "VP8)" in printed.out
    assert printed.err == ""  # OpenCV's own remarks are no reader's
    found = seen(tmp_path / "out" / "drive.webm")
    assert held(tmp_path / "out") == {"drive.webm", "legend.png"} and len(found) == 6
    assert all(
        near(picture[:, :96], overlaid(network[1], frame)) < 25
        for picture, frame in zip(found, frames)
    )


@pytest.mark.parametrize("installed", [False, pytest.param(True, marks=H264_OR_SKIP)])
def test_a_video_for_players_alone_says_how_to_get_another(
    installed: bool,
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video(tmp_path / "drive.avi", frames=2, code="MJPG")
    if not installed:
        monkeypatch.setitem(sys.modules, "av", None)
    assert run(network[0], tmp_path / "drive.avi", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    if f"{H264})" in printed:  # by PyAV, or by this machine's hardware
        assert "plays in players" not in printed
    else:
        assert (
            not installed
            and 'drive.mp4 plays in players and in no browser: pip install -e ".[video]"' in printed
        )
