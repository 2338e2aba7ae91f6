"""From summed gradients to new weights, alike for every engine: mean over the valid rows, is it finite, clip, step.

A gradient with a NaN or an infinity leaves the step out. It is looked at after the exchange, when all workers hold the
same sums: all leave out the same step without asking each other. On a GPU the answer stays on the device, where the
fused optimisers read it: the step waits for nothing. fp16's loss scale (Micikevicius et al. 2018, section 3.2) moves by
the same answer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from distdl.config.schema import Config
from distdl.trainer import optim

_FIRST_SCALE, _GROWTH, _BACKOFF, _GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000


class Update:
    """`times`: a factor of the loss that the engine takes back. `add_noise(step)`: called on the final gradients."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        times: int = 1,
        add_noise: Callable[[int], None] | None = None,
    ) -> None:
        self._optimiser, self._times, self._add_noise = optimiser, times, add_noise
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._clip_norm, self._clip_value = config.train.clip_norm, config.train.clip_value
        self._clip_layer = config.train.clip_layer
        self._l1 = config.optim.l1
        device = self._parameters[0].device
        self.scale = LossScale(device) if config.train.precision == "fp16" else None
        self._n_rows = 0
        self._by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in self._parameters:
            self._by_dtype.setdefault(parameter.dtype, []).append(parameter)
        self._share = torch.zeros((), device=device)
        self._factor = torch.ones((), device=device)
        self.skipped = Skipped(device)
        # Otherwise the host has to know whether to step, and waits for the answer.
        self._device_decides = device.type != "cpu" and getattr(optimiser, "_step_supports_amp_scaling", False)
        if self._device_decides:
            optimiser.found_inf = self.skipped.now  # type: ignore[attr-defined]  # what GradScaler sets as well
        # A fused SGD takes momentum's memory in the first step and fills it by the kernel that a bad one skips.
        self._has_stepped = False
        self.norm: Tensor | None = None
        """of the last gradient before it was clipped, shape (), on the device; None if it is not clipped"""

    @property
    def is_told_at_once(self) -> bool:
        """Whether the host knows after each step if it was left out, without waiting for the device."""
        return not self._device_decides

    def begin(self, n_rows: int) -> None:
        """Before the backward passes of a step whose global batch has `n_rows` rows."""
        if n_rows != self._n_rows:
            self._n_rows = n_rows
            self._share.fill_(self._times / n_rows)

    def backward(self, loss: Tensor) -> None:
        # What backward starts from, instead of 1: cheaper than a division in the graph.
        loss.backward(gradient=self._share * self.scale.value if self.scale else self._share)

    @torch.no_grad()
    def __call__(self, step: int, lr: float, count: Tensor) -> None:
        """`count`: valid rows over all workers, shape (), on the device."""
        self._take_mean(count)
        skips = None if self._device_decides and self._has_stepped else bool(self.skipped.now)
        self.skipped.count(skips)
        if self.scale:
            self.scale.update(self.skipped.now)
        if skips:
            return
        optim.add_l1(self._optimiser, self._l1)
        if self._clip_value:
            nn.utils.clip_grad_value_(self._parameters, self._clip_value)
        if self._clip_layer:
            clip_each_(self._parameters, self._clip_layer)
        if self._clip_norm:
            self.norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        if self._add_noise:
            self._add_noise(step)  # after the clipping, which would take most of it away
        optim.set_lr(self._optimiser, lr)
        self._optimiser.step()
        self._has_stepped = True

    def _take_mean(self, count: Tensor) -> None:
        """Corrects for masked rows, takes the loss scale back and looks for NaN and Inf, in one pass."""
        if count.device.type != "cpu":
            torch.div(self._n_rows, count.clamp(min=1), out=self._factor)  # stays on the device: no wait in the step
        else:
            self._factor.fill_(self._n_rows / max(1.0, count.item()))
        if self.scale:
            self._factor.div_(self.scale.value)
        self.skipped.now.zero_()
        for parameters in self._by_dtype.values():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.skipped.now, self._factor)


def clip_each_(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scales each gradient whose norm is above `most` down to it."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients)
    torch._foreach_mul_(gradients, [(most / norm.clamp(min=most)).to(norm.dtype) for norm in norms])


class Skipped:
    """Steps left out: whether this one is (`now`, fp32 of shape () on the device), how many, and how many in a row."""

    def __init__(self, device: torch.device) -> None:
        self.now = torch.zeros((), device=device)
        self._before = (0, 0)  # known on the host
        self._on_device: Tensor | None = None  # (in all, in a row), where the host does not know

    def count(self, known: bool | None) -> None:
        n, in_a_row = self._before
        if known is None:
            if self._on_device is None:
                self._on_device = torch.tensor([n, in_a_row], dtype=torch.float32, device=self.now.device)
            self._on_device.add_(self.now)
            self._on_device[1].mul_(self.now)
        elif known:
            self._before = (n + 1, in_a_row + 1)
        elif in_a_row:
            self._before = (n, 0)

    def totals(self) -> tuple[int, int]:
        """(in all, in a row). Waits for the device."""
        if self._on_device is not None:
            n, in_a_row = map(int, self._on_device.tolist())
            self._before = (n, in_a_row)
        return self._before

    def set(self, n: int, in_a_row: int) -> None:
        self._before, self._on_device = (n, in_a_row), None


class LossScale:
    """Doubles after 2000 good steps, halves with each bad one: as torch's GradScaler, whose kernel moves it."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), _FIRST_SCALE, device=device)
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, found: Tensor) -> None:
        torch._amp_update_scale_(self.value, self._good_steps, found, _GROWTH, _BACKOFF, _GROWTH_INTERVAL)

    def state(self) -> dict[str, float]:
        return {"value": self.value.item(), "good_steps": self._good_steps.item()}

    def load(self, state: dict[str, float]) -> None:
        self.value.fill_(state["value"])
        self._good_steps.fill_(int(state["good_steps"]))
