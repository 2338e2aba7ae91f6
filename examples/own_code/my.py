"""A network, a dataset and a loss of one's own, in one file: own_code.yaml names them."""

import numpy as np
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import distdl


@distdl.register_model
def small_net(*, classes: int, width: int = 32) -> nn.Module:
    convolution = nn.Conv2d(1, width, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, classes))


@distdl.register_dataset
class Digits:
    """scikit-learn's handwritten digits, 8x8 pixels: every fifth is held out."""

    def __init__(self, *, held_out: bool) -> None:
        images, labels = load_digits(return_X_y=True)
        chosen = (np.arange(len(labels)) % 5 == 0) == held_out
        self.images = (images[chosen] * 15).astype(np.uint8).reshape(-1, 8, 8, 1)
        self.labels = labels[chosen]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], int(self.labels[i])


@distdl.register_task
class Focal:
    """The focal loss of Lin et al. 2017 (equation 4): examples that are easy already weigh less."""

    metric_names = ("top1",)
    lower_is_better = frozenset({"loss"})

    def __init__(self, *, gamma: float = 2.0, label_smoothing: float = 0.0) -> None:
        self.gamma, self.label_smoothing = gamma, label_smoothing

    def loss(self, logits_BC: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum over the valid rows, and their number: a mean is formed only over all workers together."""
        nll_B = functional.cross_entropy(
            logits_BC, batch["label"], reduction="none", label_smoothing=self.label_smoothing
        )  # 0 in rows that don't count
        return ((1 - (-nll_B).exp()) ** self.gamma * nll_B).sum(), batch["valid"].sum()

    def metrics(self, logits_BC: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"top1": (logits_BC.argmax(dim=1) == batch["label"]).sum()}
