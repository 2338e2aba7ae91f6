"""Reconstruction: the image is its own label. outputs: as many values a row as the normalised image has, any shape.

The metric `mae` is the mean absolute error of a value, like the loss in units of the normalised image.
"""

from torch import Tensor

from distdl.errors import UserError

Batch = dict[str, Tensor]


class Autoencode:
    metric_names = ("mae",)
    lower_is_better = frozenset({"loss", "mae"})

    def label(self, n_outputs: int | None) -> None:
        """None is read."""

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over the valid rows of the mean squared error, and the number of these rows, both of shape ()."""
        return (_errors(outputs, batch).square().mean(dim=1) * batch["valid"]).sum(), batch["valid"].sum()

    def metrics(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"mae": (_errors(outputs, batch).abs().mean(dim=1) * batch["valid"]).sum()}


def _errors(outputs: Tensor, batch: Batch) -> Tensor:
    """(rows, values) in fp32. Raises UserError if the network gives another number of values."""
    output_BV, image_BV = outputs.float().flatten(1), batch["image"].flatten(1)
    if output_BV.shape != image_BV.shape:
        raise UserError(
            f"the network gives {output_BV.shape[1]} values for an image of {image_BV.shape[1]}",
            where="task.name: autoencode",
            fix="Use a network whose output has the size of its input, such as the zoo's autoencoder.",
        )
    return output_BV - image_BV
