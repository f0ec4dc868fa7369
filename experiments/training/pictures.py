"""Pictures of fixed validation images, and of what a semi-supervised method is shown, written while training."""

from pathlib import Path

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from experiments.drawing.label_images import contact_sheet, overlay, preview_sheet, save
from experiments.training.intervals import in_training
from experiments.training.wandb_mirror import WandB
from segmodels.method import Method
from segmodels.module import SegmentationModule

# --- pictures


class Pictures(Callback):
    """The same few validation images at each validation, as overlays on disk and in W&B; at the end a contact sheet."""

    def __init__(self, folder: Path, count: int, title: str, mirror: WandB | None) -> None:
        self.folder, self.count, self.title, self.mirror = folder, count, title, mirror

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        if in_training(trainer) and self.count:
            self.draw(trainer, module)

    def draw(self, trainer: Trainer, module: SegmentationModule) -> None:
        source, labels = trainer.datamodule.sources["val"], trainer.datamodule.labels
        chosen = (
            np.linspace(0, len(source) - 1, min(self.count, len(source)))
            .round()
            .astype(int)
            .tolist()
        )
        rows = [
            (source.names[index], *predicted(trainer, module, *source.window(index)))
            for index in chosen
        ]
        for name, image, guess, _ in rows:
            save(
                overlay(image, guess, labels.palette),
                self.folder / f"val_{Path(name).stem}_{trainer.global_step:06d}.png",
            )
        title = (
            f"{self.title}, step {trainer.global_step}: mIoU {100 * module.scores['miou']:.1f} %"
        )
        save(
            contact_sheet([row[1:] for row in rows], labels.palette, title),
            self.folder / "contact_sheet.png",
        )
        if self.mirror:
            self.mirror.log_overlays(rows, labels.names, trainer.global_step)


def predicted(
    trainer: Trainer, module: SegmentationModule, image: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(module.device)
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        return image, module.label_map(pixels)[0].cpu().numpy(), label


class Previews(Pictures):
    """What a method asks of unlabelled images: the same few crops at each validation, as one sheet."""

    def draw(self, trainer: Trainer, module: Method) -> None:
        data = trainer.datamodule
        count = max(self.count, module.min_unlabelled)
        image, padding = (each.to(module.device) for each in data.unlabelled_crops(count))
        with (
            torch.no_grad(),
            torch.random.fork_rng(),
            trainer.precision_plugin.val_step_context(),
        ):
            torch.manual_seed(0)
            shown = module.preview((image, padding))
        columns = {head: as_array(each[: self.count]) for head, each in shown.items()}
        title = f"{self.title}, step {trainer.global_step}"
        sheet = preview_sheet(columns, data.palette, title)
        save(sheet, self.folder / "semi.png")
        if self.mirror:
            self.mirror.log_sheet("train/semi", sheet, trainer.global_step)


def as_array(column: torch.Tensor) -> np.ndarray:
    """An image's channels come last; half precision, which numpy lacks, becomes float32."""
    column = column.permute(0, 2, 3, 1) if column.ndim == 4 else column
    column = column.float() if column.is_floating_point() else column
    return column.cpu().numpy()
