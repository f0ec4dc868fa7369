"""Images without labels, to be predicted: `DataLoader(Images("photos"))`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.file_trees import IMAGES
from datamodules.reading.decoding import read_image
from datamodules.reading.sources import Source
from datamodules.sampling.samples import tensor_of


class Images(Dataset):
    """[index] -> {"image": uint8 RGB (3, H, W), "file": its path}, of the images in a folder.

    Instead of a folder it takes a list of files. Images of one batch must have one size.
    """

    def __init__(self, files: str | Path | Sequence[str | Path]) -> None:
        if isinstance(files, (str, Path)):
            folder = Path(files)
            files = sorted(each for each in folder.glob("*") if each.suffix.lower() in IMAGES)
            if not files:
                raise DataError(f"{folder} holds no images; their names end in {', '.join(IMAGES)}")
        self.files = [str(each) for each in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        image = tensor_of(read_image(file)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
        return {"image": image, "file": file}


class NamedImages(Dataset):
    """[index] -> the same of a split, with the names that its data set gives its images."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, _ = self.source.window(index)
        pixels = tensor_of(image).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
        return {"image": pixels, "file": self.source.names[index]}
