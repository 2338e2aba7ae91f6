"""What tasks ask of a network's outputs."""

from torch import Tensor

from distdl.errors import UserError


def check_outputs(outputs: Tensor, label: Tensor, task: str) -> None:
    """Raises UserError unless the network gives as many values for a row as its label has."""
    if outputs.numel() != label.numel():
        raise UserError(
            f"the network gives {outputs[0].numel()} values for a sample, its label has {label[0].numel()}",
            where=f"task.name: {task}",
            fix=f"Set model.args.classes={label[0].numel()}, or what the number of outputs is called there.",
        )
