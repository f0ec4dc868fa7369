"""Tests of videos.py: an overlay has the video's frames, rate and size; refusals."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from datamodules.labels import CITYSCAPES
from experiments.prediction import videos
from experiments.prediction.video_writer import video_writer
from segmodels.module import SegmentationModule
from tests.support.patience import SECONDS, until
from tests.support.pictures import noise, predicted, read, refused, run
from tests.support.videos import held, near, overlaid, rate_of, seen, video

# --- videos


def test_a_video_becomes_a_video_of_its_overlays_frame_by_frame(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    frames = video(tmp_path / "drive.avi", rate=12.5, code="MJPG")
    assert run(network[0], tmp_path / "drive.avi", "--out", tmp_path / "out") == 0
    assert held(tmp_path / "out") == {"drive.mp4", "legend.png"}
    found = seen(tmp_path / "out" / "drive.mp4")
    assert len(found) == len(frames) == 12 and rate_of(tmp_path / "out" / "drive.mp4") == 12.5
    expected = [overlaid(network[1], frame) for frame in frames]
    for place, picture in enumerate(found):
        assert picture.shape == frames[place].shape
        distances = [near(picture, each) for each in expected]
        assert (
            int(np.argmin(distances)) == place and distances[place] < 25
        )  # the codec loses some of such hard patches


def test_exact_kinds_become_numbered_pictures(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    frames = video(tmp_path / "drive.mp4", frames=5)
    assert (
        run(
            network[0],
            tmp_path / "drive.mp4",
            "--out",
            tmp_path / "out",
            "--kinds",
            "label,ids",
            "--batch",
            2,
        )
        == 0
    )
    names = [f"{number:06d}.png" for number in range(5)]
    assert held(tmp_path / "out") >= {
        f"{kind}/drive/{name}" for kind in ("label", "ids") for name in names
    }
    assert (
        not (tmp_path / "out" / "drive.mp4").exists()
        and not (tmp_path / "out" / "legend.png").exists()
    )
    for name, frame in zip(names, frames):
        label = predicted(network[1], frame)
        assert np.array_equal(read(tmp_path / "out" / "label" / "drive" / name), label)
        assert np.array_equal(
            read(tmp_path / "out" / "ids" / "drive" / name), np.array(CITYSCAPES.ids)[label]
        )


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("--every", 5), [0, 5, 10, 15]),
        (("--start", 0.5, "--end", 1), [5, 6, 7, 8, 9]),
        (("--start", 0.5, "--every", 4), [5, 9, 13, 17]),
        (("--frames", 3), [0, 1, 2]),
        (("--start", 1.8, "--frames", 9), [18, 19]),
    ],
)
def test_a_part_of_a_video_is_the_frames_asked_for(
    words: tuple, numbers: list[int], network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    frames = video(tmp_path / "drive.mp4", frames=20)
    assert (
        run(
            network[0],
            tmp_path / "drive.mp4",
            "--out",
            tmp_path / "out",
            "--kinds",
            "overlay,label",
            *words,
        )
        == 0
    )
    assert sorted(file.name for file in (tmp_path / "out" / "label" / "drive").iterdir()) == [
        f"{number:06d}.png" for number in numbers
    ]
    for number in numbers:
        assert np.array_equal(
            read(tmp_path / "out" / "label" / "drive" / f"{number:06d}.png"),
            predicted(network[1], frames[number]),
        )
    every = words[words.index("--every") + 1] if "--every" in words else 1
    assert len(seen(tmp_path / "out" / "drive.mp4")) == len(numbers)
    assert rate_of(tmp_path / "out" / "drive.mp4") == 10 / every  # plays as long as before


def test_odd_sides_lose_a_row_and_names_are_names(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    """FFmpeg would take 12:30.avi for the protocol 12, and %03d.avi for a series."""
    for name in ("12:30.avi", "100%03d [a].avi"):
        video(tmp_path / "in" / name, frames=2, size=(49, 67), code="FFV1")
    here = Path.cwd()
    os.chdir(tmp_path / "in")
    try:
        assert run(network[0], "12:30.avi", "100%03d [a].avi", "--out", tmp_path / "out") == 0
    finally:
        os.chdir(here)
    for name in ("12:30.mp4", "100%03d [a].mp4"):
        assert [frame.shape for frame in seen(tmp_path / "out" / name)] == [(48, 66, 3)] * 2


def test_the_legend_stands_beside_the_picture(
    network: tuple[Path, SegmentationModule], tmp_path: Path
) -> None:
    frames = video(tmp_path / "drive.mp4", frames=2, size=(460, 96))
    assert run(network[0], tmp_path / "drive.mp4", "--out", tmp_path / "out", "--legend") == 0
    key, picture = read(tmp_path / "out" / "legend.png"), seen(tmp_path / "out" / "drive.mp4")[0]
    assert picture.shape == (460, 96 + key.shape[1] // 2 * 2, 3)
    assert near(picture[: len(key), 96:], key[:, : picture.shape[1] - 96]) < 6
    assert near(picture[:, :96], overlaid(network[1], frames[0])) < 25


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_of_a_turned_phone_is_seen_upright(degrees: int, tmp_path: Path) -> None:
    """The file says how the phone was held."""
    file = tmp_path / "phone.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(degrees)
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(noise(64, 96, number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = list(videos.open_video(file, PLAIN).frames(threading.Event()))
    assert len(frames) == 2
    for frame, expected in zip(frames, seen(file)):
        assert np.array_equal(frame.image, expected)


# --- what is damaged


def holed(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    file.write_bytes(data)


def test_damaged_frames_are_told_and_the_others_predicted(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video(tmp_path / "drive.mp4", frames=40)
    holed(tmp_path / "drive.mp4")
    assert run(network[0], tmp_path / "drive.mp4", "--out", tmp_path / "out") == 0
    printed, left = capsys.readouterr().out, len(seen(tmp_path / "out" / "drive.mp4"))
    assert 20 < left < 40
    assert f"{40 - left} damaged frames could not be decoded and were left out" in printed


def test_a_video_that_ends_early_is_told(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video(tmp_path / "drive.avi", frames=40, code="MJPG")
    data = (tmp_path / "drive.avi").read_bytes()
    (tmp_path / "drive.avi").write_bytes(data[: len(data) // 2])
    assert run(network[0], tmp_path / "drive.avi", "--out", tmp_path / "out") == 0
    left = len(seen(tmp_path / "out" / "drive.mp4"))
    assert 10 < left < 30
    assert (
        f"ended {40 - left} frames before the number that its header says"
        in capsys.readouterr().out
    )


# --- cameras

PLAIN = SimpleNamespace(every=None, start=None, end=None)


class Fake:
    """PyAV's container of a camera with numbered frames, so many per second, and then nothing.

    `before` happens before each of them.
    """

    def __init__(
        self,
        frames: int = 10_000,
        rate: float = 50,
        said: float = 20,
        before: Callable[[int], object] = lambda number: None,
    ) -> None:
        self.count = frames
        self.wait = 1 / rate
        self.before = before
        self.given = -1
        self.released = False
        self.opened = ""
        self.duration = None
        stream = SimpleNamespace(guessed_rate=said, codec_context=self, frames=0)
        self.streams = SimpleNamespace(best=lambda kind: stream)

    def __enter__(self) -> "Fake":
        return self

    def __exit__(self, *_: object) -> None:
        self.released = True

    def demux(self, stream: SimpleNamespace) -> Iterator[SimpleNamespace]:
        for number in range(self.count):
            time.sleep(self.wait)
            self.given = number  # whatever came earlier has been taken over by now
            self.before(number)
            frame = av.VideoFrame.from_ndarray(noise(48, 64, seed=number), format="rgb24")
            yield SimpleNamespace(decode=lambda frame=frame: [frame])
        time.sleep(self.wait)
        self.given = self.count


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Fake]:
    """The next thing that is opened by another name than a file's is this."""
    real = av.open

    def placed(**how: object) -> Fake:
        fake = Fake(**how)

        def opened(file: str, *more: object, **options: object) -> object:
            if file.startswith(str(tmp_path)):
                return real(file, *more, **options)
            fake.opened = file
            return fake

        monkeypatch.setattr(av, "open", opened)
        return fake

    return placed


def test_a_camera_is_filmed_until_so_many_frames(
    camera: Callable[..., Fake],
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    fake = camera()
    assert (
        run(network[0], "camera:0", "--out", tmp_path, "--frames", 6, "--kinds", "overlay,label")
        == 0
    )
    assert fake.opened == ("0" if sys.platform == "darwin" else "/dev/video0")
    assert fake.released and "camera:0: 6 frames:" in capsys.readouterr().out
    assert len(list((tmp_path / "label" / "camera0").iterdir())) == 6
    assert len(seen(tmp_path / "camera0.mp4")) >= 1 and rate_of(tmp_path / "camera0.mp4") == 20


def test_a_camera_is_filmed_for_so_many_seconds_and_its_password_stays_secret(
    camera: Callable[..., Fake],
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    camera(rate=30)
    assert (
        run(
            network[0],
            "rtsp://me:secr@et@host/way?password=secret",
            "--out",
            tmp_path,
            "--end",
            0.5,
        )
        == 0
    )
    assert 1 <= len(seen(tmp_path / "host_way.mp4")) <= 11  # 20 a second
    printed = capsys.readouterr()
    assert "rtsp://host/way?..." in printed.out and "secr" not in printed.out + printed.err


def test_a_recording_runs_as_fast_as_the_world_did(
    camera: Callable[..., Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the world's clock a tenth of a second lies between two frames of the camera: two frames of the recording."""
    clock, first_is_taken = [100.0], threading.Event()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def goes_on(number: int) -> None:
        assert not number or first_is_taken.wait(SECONDS)
        clock[0] = 100 + number / 10

    camera(frames=20, before=goes_on)
    video = videos.open_video("camera:0", PLAIN)
    with video_writer(tmp_path / "street.mp4", 20) as writer:
        for frame in video.frames(threading.Event()):
            first_is_taken.set()
            assert frame.due == 2 * frame.number + 1
            writer.add(frame.image, frame.due)
    assert frame.number == 19
    assert len(seen(tmp_path / "street.mp4")) == frame.due


def test_a_stream_that_ends_leaves_what_came(
    camera: Callable[..., Fake],
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    camera(frames=8, rate=20, said=0)
    assert run(network[0], "http://host/live.mjpg", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert (
        "does not say its rate: 25 frames per second were taken" in printed
        and "damaged" not in printed
    )
    assert (tmp_path / "host_live_mjpg.mp4").is_file()


def test_the_newest_frame_is_taken_and_others_are_passed_by(
    camera: Callable[..., Fake], tmp_path: Path
) -> None:
    fake = camera(frames=40, rate=1000)
    numbers = []
    for frame in videos.open_video("camera:0", PLAIN).frames(threading.Event()):
        numbers.append(frame.number)
        assert until(
            lambda: fake.given > min(numbers[-1] + 10, 39)
        )  # ten times as slow as the camera
    assert numbers == sorted(set(numbers)) and len(numbers) <= 5 and numbers[-1] == 39


def test_a_real_stream_over_http_is_read_live_to_its_last_frame(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "street.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=20, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            gray = np.full((48, 64, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode())

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """No length is said, as of a live stream."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write((tmp_path / "street.ts").read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        video = videos.open_video(f"http://127.0.0.1:{server.server_port}/street", PLAIN)
        assert video.live and video.rate == 20
        frames = list(video.frames(threading.Event()))
        server.shutdown()
    assert frames[-1].number == 29
    for frame in frames:
        assert np.abs(frame.image.astype(int) - 8 * frame.number).max() <= 3


# --- stopping


def test_ctrl_c_leaves_a_whole_video(
    camera: Callable[..., Fake],
    network: tuple[Path, SegmentationModule],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, real, works = (
        signal.getsignal(signal.SIGINT),
        videos.Predictor.__call__,
        threading.Event(),
    )
    monkeypatch.setattr(videos.Predictor, "__call__", lambda *given: works.set() or real(*given))
    camera(
        frames=100,
        before=lambda number: (
            number == 1 and works.wait(SECONDS) and os.kill(os.getpid(), signal.SIGINT)
        ),
    )
    assert run(network[0], "camera:0", "--out", tmp_path) == 0
    assert "stopped by Ctrl-C" in capsys.readouterr().out
    assert (
        held(tmp_path) == {"camera0.mp4", "legend.png"} and len(seen(tmp_path / "camera0.mp4")) > 0
    )
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_and_leaves_no_half_video(
    network: tuple[Path, SegmentationModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video(tmp_path / "drive.mp4")
    real = videos.Predictor.__call__

    def twice(self: videos.Predictor, images: list[np.ndarray]) -> list[dict]:
        if self.passes:
            first = signal.getsignal(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert until(
                lambda: signal.getsignal(signal.SIGINT) is not first
            )  # else the second might be the same one
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: False)
        return real(self, images)

    monkeypatch.setattr(videos.Predictor, "__call__", twice)
    assert run(network[0], tmp_path / "drive.mp4", "--out", tmp_path / "out") == 130
    assert held(tmp_path / "out") == {"legend.png"}


# --- what is refused


def test_what_cannot_be_filmed_is_refused(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video(tmp_path / "good.mp4", frames=3)
    video(tmp_path / "in" / "good.mov", frames=3)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:900])
    (tmp_path / "street.png").write_bytes(b"")
    good, out, sound = tmp_path / "good.mp4", tmp_path / "out", tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 48000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    answers = {
        (tmp_path / "text.mp4",): "text.mp4 cannot be opened: it is damaged",
        (good, tmp_path / "cut.mp4"): "cut.mp4 cannot be opened: it is damaged",
        (good, tmp_path / "street.png"): "predict videos and images in two calls",
        (good, "camera:0"): "camera:0 is filmed alone; leave out",
        ("camera:0", "camera:1"): "camera:0 is filmed alone; leave out camera:1",
        ("rtsp://me:secret@host/a", good): "rtsp://host/a is filmed alone",
        ("camera:front",): "camera:front is no camera; write camera:0",
        (sound,): "sound.mp4 cannot be opened: it is damaged, cut off, or of a kind that FFmpeg",
        ("camera:97",): "camera:97 cannot be opened: no camera of that number is free",
        ("http://127.0.0.1:9/none",): "http://127.0.0.1:9/none cannot be opened: nothing answered",
        ("camera:0", "--every", 2): "--every is for video files",
        ("camera:0", "--batch", 2): "--batch 2: a camera's",
        (
            tmp_path / "in",
        ): f"holds no image (its videos are given by name: {tmp_path / 'in' / 'good.mov'})",
        (good, good): "would both become good.mp4",
        (good, "--every", 0): "--every 0: it is a whole number from 1 up",
        (good, "--start", -1): "--start -1: it is a number of seconds from 0 up",
        (good, "--start", 2, "--end", 1): "--end 1 is not after --start 2",
    }
    for words, answer in answers.items():
        assert answer in refused(capsys, tmp_path, network[0], *words, "--out", out)


def test_a_part_without_frames_is_refused(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video(tmp_path / "good.mp4", frames=3)
    assert run(network[0], tmp_path / "good.mp4", "--out", tmp_path / "out", "--start", 9) == 2
    assert (
        "gave no frame between --start and --end (it ends at 0.3 s); nothing of it was written"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "good.mp4").exists()


def test_a_slow_video_says_its_rate(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video(tmp_path / "lapse.mp4", frames=2, rate=0.5)
    assert run(network[0], tmp_path / "lapse.mp4", "--out", tmp_path / "out", "--start", 2) == 0
    assert rate_of(tmp_path / "out" / "lapse.mp4") == 0.5
    assert (
        "1 frame, 0.5 per second" in (printed := capsys.readouterr().out)
        and "does not say its rate" not in printed
    )


def test_a_rate_that_no_writer_takes_is_refused(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video(tmp_path / "drive.mp4", frames=2)
    assert (
        run(network[0], tmp_path / "drive.mp4", "--out", tmp_path / "out", "--every", 100_000) == 2
    )
    assert held(tmp_path / "out") == {"legend.png"}
    assert "96x64 pixels and 0.0001 frames per second" in capsys.readouterr().err


def test_a_video_is_not_overwritten(
    network: tuple[Path, SegmentationModule], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video(tmp_path / "drive.mp4", frames=3)
    sentence = refused(
        capsys, tmp_path, network[0], tmp_path / "drive.mp4", "--out", tmp_path
    )  # beside itself
    assert f"{tmp_path / 'drive.mp4'} exists and is not overwritten" in sentence
    (tmp_path / "out" / "label" / "drive").mkdir(parents=True)
    sentence = refused(
        capsys,
        tmp_path,
        network[0],
        tmp_path / "drive.mp4",
        "--out",
        tmp_path / "out",
        "--kinds",
        "label",
    )
    assert f"{tmp_path / 'out' / 'label' / 'drive'} exists and is not overwritten" in sentence
