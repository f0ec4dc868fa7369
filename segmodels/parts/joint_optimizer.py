"""`JointOptimizer`: several optimizers that step as one.

To a trainer, a schedule or a gradient scaler it is one optimizer with all their groups.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """An optimizer of several, each of which steps its own groups.

    They share groups and state with it, so that schedules, checkpoints and scalers reach them.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        self.joined = False
        groups = []
        for part in parts:
            groups += part.param_groups
        super().__init__(groups, {})
        for part in parts:
            self.state.update(part.state)
        self.joined = True
        self.share()

    def share(self) -> None:
        """Give the parts their groups, in order, and the common state."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.joined:
            raise TypeError("nobody would step such a group: add it to a part, then join the parts")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step all parts; the closure computes all gradients once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss
