"""Draw fixed validation images, and a semi-supervised method's crops, while training."""

from pathlib import Path

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from experiments.drawing.label_images import contact_sheet, overlay, preview_sheet, save
from experiments.training.intervals import PerStep
from experiments.training.wandb_mirror import WandB
from segmodels.module import SegmentationModule
from segmodels.semisup_method import Method


class Pictures(PerStep):
    """Draw the same few validation images at each validation: overlays and a contact sheet."""

    def __init__(self, folder: Path, count: int, title: str, mirror: WandB) -> None:
        self.folder = folder
        self.count = count
        self.title = title
        self.mirror = mirror

    @rank_zero_only
    def on_validated(self, trainer: Trainer, module: SegmentationModule) -> None:
        if self.count:
            self.draw(trainer, module)

    def draw(self, trainer: Trainer, module: SegmentationModule) -> None:
        source = trainer.datamodule.sources["val"]
        names = trainer.datamodule.class_names
        palette = trainer.datamodule.palette
        step = trainer.global_step
        last = len(source) - 1
        rows = []
        for place in np.linspace(0, last, min(self.count, last + 1)):
            index = round(place)
            file_name = source.names[index]
            image, label = source.window(index)
            prediction = predict(trainer, module, image)
            rows.append((file_name, image, prediction, label))
            file = self.folder / f"val_{Path(file_name).stem}_{step:06d}.png"
            save(overlay(image, prediction, palette), file)
        title = f"{self.title}, step {step}: mIoU {100 * module.scores['miou']:.1f} %"
        sheet = contact_sheet([row[1:] for row in rows], names, palette, title)
        save(sheet, self.folder / "contact_sheet.png")
        self.mirror.log_sheet("val/contact_sheet", sheet, step)
        self.mirror.log_overlays(rows, names, step)


def predict(trainer: Trainer, module: SegmentationModule, image: np.ndarray) -> np.ndarray:
    """The class of each pixel (H, W), in the precision of validation."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        return module.label_map(pixels.to(module.device))[0].cpu().numpy()


class Previews(Pictures):
    """Draw what a method learns from the same few unlabeled crops at each validation."""

    def draw(self, trainer: Trainer, module: Method) -> None:
        data = trainer.datamodule
        crops = data.unlabeled_crops(max(self.count, module.min_unlabeled))
        with (
            torch.no_grad(),
            torch.random.fork_rng(),
            trainer.precision_plugin.val_step_context(),
        ):
            torch.manual_seed(0)
            preview = module.preview(tuple(each.to(module.device) for each in crops))
        columns = {head: as_array(each[: self.count]) for head, each in preview.items()}
        title = f"{self.title}, step {trainer.global_step}"
        sheet = preview_sheet(columns, data.class_names, data.palette, title)
        save(sheet, self.folder / "semi.png")
        self.mirror.log_sheet("train/semi", sheet, trainer.global_step)


def as_array(column: torch.Tensor) -> np.ndarray:
    """An image's channels come last; half precision, which numpy lacks, becomes float32."""
    if column.ndim == 4:
        column = column.permute(0, 2, 3, 1)  # (B, 3, H, W) -> (B, H, W, 3)
    column = column.float() if column.is_floating_point() else column
    return column.cpu().numpy()
