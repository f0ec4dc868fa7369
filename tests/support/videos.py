"""Videos written and read again."""

from pathlib import Path

import cv2
import numpy as np

from datamodules.labels import CITYSCAPES
from experiments.drawing.label_images import overlay
from segmodels.module import SegmentationModule
from tests.support.pictures import noise, predicted


def video(
    file: Path,
    frames: int = 12,
    size: tuple[int, int] = (64, 96),
    rate: float = 10,
    code: str = "mp4v",
) -> list[np.ndarray]:
    """Writes a video whose frames differ, and says what a reader sees in it, RGB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(
        str(file.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), rate, size[::-1]
    )
    for number in range(frames):
        writer.write(noise(*size, seed=number)[..., ::-1].copy())
    writer.release()
    return seen(file)


def seen(file: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(file.absolute()), cv2.CAP_FFMPEG), []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    return frames


def held(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def rate_of(file: Path) -> float:
    return cv2.VideoCapture(str(file.absolute()), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FPS)


def overlaid(module: SegmentationModule, frame: np.ndarray) -> np.ndarray:
    return overlay(frame, predicted(module, frame).astype(np.uint8), CITYSCAPES.palette)


def near(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())
