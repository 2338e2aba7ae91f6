"""A network, a dataset and a loss of one's own, in one file: own_code.yaml names them."""

from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import distdl


@distdl.register_model
def small_net(*, classes, width=32):
    convolution = nn.Conv2d(1, width, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, classes))


@distdl.register_dataset
class Digits:  # 8x8 pixels; every fifth is held out
    def __init__(self, *, held_out):
        images, labels = load_digits(return_X_y=True)
        self.rows = [i for i in range(len(labels)) if (i % 5 == 0) == held_out]
        self.images, self.labels = (images * 15).astype("uint8").reshape(-1, 8, 8, 1), labels

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.images[self.rows[i]], self.labels[self.rows[i]]


@distdl.register_task
class Focal:  # Lin et al. 2017, equation 4: what is easy already weighs less
    metric_names, lower_is_better = ("top1",), frozenset({"loss"})

    def loss(self, logits, batch):  # sums, from which one mean is formed over all workers; 0 in rows that don't count
        nll = functional.cross_entropy(logits, batch["label"], reduction="none")
        return ((1 - (-nll).exp()) ** 2 * nll).sum(), batch["valid"].sum()

    def metrics(self, logits, batch):
        return {"top1": (logits.argmax(dim=1) == batch["label"]).sum()}
