"""mIoU and its companions, all out of one confusion matrix over the whole set and every rank."""

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex


class JaccardIndex(MulticlassJaccardIndex):
    """mIoU of label maps; 255 is ignored, and a class that occurs nowhere is left out of the mean, as Cityscapes' script does."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="macro", ignore_index=255, validate_args=False)

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """uint8 maps of any equal shape."""
        size = self.num_classes
        if predicted.max() >= size or (label.ge(size) & label.ne(255)).any():
            raise ValueError(f"a prediction or a label lies outside 0..{size - 1} (a label may also be 255, which is ignored)")
        # Ignored pixels get a row of their own, past the last class: no boolean mask, no copy.
        rows = label.to(torch.int32).clamp(max=size)
        counts = torch.bincount((rows * size + predicted.to(torch.int32)).flatten(), minlength=size * (size + 1))
        self.confmat += counts[: size * size].reshape(size, size)


def scores(confusion: Tensor) -> dict[str, float | int | list[float | None]]:
    """From (true, predicted) counts: mIoU, pixel accuracy, IoU per class (None where a class occurs nowhere), pixels."""
    counts = confusion.to(torch.float64)
    hit, union = counts.diag(), counts.sum(0) + counts.sum(1) - counts.diag()
    iou = (hit / union)[union > 0]
    return {
        "miou": iou.mean().item() if len(iou) else float("nan"),
        "pixel_accuracy": (hit.sum() / counts.sum()).item(),
        "iou": [(h / u).item() if u else None for h, u in zip(hit, union)],
        "pixels": int(confusion.sum()),
    }
