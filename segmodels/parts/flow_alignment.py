"""Flow alignment: a coarse map is read where a learned flow says, not where its grid says.

It is SFNet's (Li et al., 2020. arXiv:2002.10120, section 3.2), and takes the place of bilinear
enlargement wherever a coarse map meets a fine one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.parts.layers import resized_with_corners
from segmodels.parts.resize import compute_dtype


def displaced(features: Tensor, flow: Tensor) -> Tensor:
    """Read features (B, C, h, w) at the positions that a flow (B, 2, H, W) points to (equation 2).

    The result is (B, C, H, W), and zero outside the map.
    """
    height, width = flow.shape[-2:]
    # Positions are never half precision, in which neighboring columns would coincide.
    y = evenly_spaced(height, flow.device)
    x = evenly_spaced(width, flow.device)
    still = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    shift = flow.permute(0, 2, 3, 1).to(compute_dtype(flow))  # (B, 2, H, W) -> (B, H, W, 2)
    # full, because a tensor of numbers would be exported for one size only
    sides = [
        torch.full((), side, dtype=still.dtype, device=flow.device) for side in (width, height)
    ]
    grid = still + shift / torch.stack(sides)
    read = F.grid_sample(
        features.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return read.to(features.dtype)


def evenly_spaced(count: int, device: torch.device) -> Tensor:
    """Return torch.linspace(-1, 1, count), which would be exported for one count only."""
    if isinstance(count, int):
        return torch.linspace(-1, 1, count, device=device)
    last = torch.full((), max(count - 1, 1), dtype=torch.float32, device=device)
    return 2 * torch.arange(count, device=device) / last - 1


class FlowAlignment(nn.Module):
    """FAM (figure 3b): both maps, with half the channels, predict where to read the coarse one.

    `width` is that of the coarse map, `fine` that of the fine one if it is another.
    """

    def __init__(self, width: int, fine: int | None = None, flows: int = 1) -> None:
        super().__init__()
        self.fine = nn.Conv2d(fine or width, width // 2, 1, bias=False)
        self.coarse = nn.Conv2d(width, width // 2, 1, bias=False)
        self.flow = nn.Conv2d(2 * (width // 2), 2 * flows, 3, padding=1, bias=False)

    def initialize(self) -> None:
        """Draw the weights as torch does without being asked, so that the first flows are short."""
        for layer in self.children():
            layer.reset_parameters()

    def flows(self, fine: Tensor, coarse: Tensor) -> Tensor:
        coarse = resized_with_corners(self.coarse(coarse), fine)
        return self.flow(torch.cat([coarse, self.fine(fine)], 1))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return displaced(coarse, self.flows(fine, coarse))
