"""Learning from a trained network as well (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural
network", section 2): besides the labels, the student matches the teacher's softened distribution over the classes.

The teacher is another run's network at a step. Rank 0 reads it, and sends it to the others, who need not see the run
folder. It is in evaluation mode, is never written to, and is no part of this run's checkpoints: `Teacher.identity` is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distdl import models, plugins, registry
from distdl.checkpoint.load import at_step, evaluated_weights
from distdl.comm import messages
from distdl.config import load
from distdl.config.schema import Config, DistillConfig
from distdl.config.sources import SplitConfig
from distdl.errors import UserError
from distdl.run import trust
from distdl.run.folder import find, split_step
from distdl.trainer.state import load_into

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SIZING = ("resize", "center_crop", "random_crop", "random_resized_crop")


@dataclass(frozen=True, slots=True)
class Teacher:
    """`identity`: run, run id and step; a resumed run has to find the same."""

    model: nn.Module
    config: DistillConfig
    precision: str
    identity: dict[str, Any]

    @classmethod
    def load(cls, config: Config, device: torch.device) -> "Teacher":
        """The teacher that the config of a run names, on each of its workers; with its averaged weights if it has them.

        Raises UserError if it can't be read, or learned from images unlike those of this run.
        """
        wanted, split = config.train.distill, config.data.train
        assert wanted
        if config.task.name in registry.TASKS and config.task.name != "classify":
            what = f"the task '{config.task.name}' has no distribution over classes to learn from a teacher"
            raise UserError(what, where="train.distill")
        weights: dict[str, Tensor] = {}
        sent = messages.on_rank0(lambda: _read(wanted, split, weights))
        with registry.using(plugins.load(sent["plugins"])):
            model = models.build(**sent["model"]).to(device)
        if sent["channels_last"]:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        load_into(model.state_dict(keep_vars=True), messages.broadcast_tensors(weights), "teacher")
        return cls(model.eval().requires_grad_(False), wanted, sent["precision"], sent["identity"])

    def loss(self, outputs_BC: Tensor, image: Tensor, batch: dict[str, Tensor], task_loss: Tensor) -> Tensor:
        """(1 - weight) task_loss + weight T^2 KL(teacher || student), summed over the valid rows, of shape ().

        T^2 keeps the size of the gradient whatever the temperature. `image` as the student gets it. Raises UserError
        if the teacher has another number of classes.
        """
        half = _AUTOCAST.get(self.precision)
        with torch.no_grad(), torch.autocast(image.device.type, dtype=half, enabled=half is not None):
            theirs_BC = self.model(image)
        outputs_BC = (
            outputs_BC[:, 0] if outputs_BC.dim() == 3 else outputs_BC
        )  # auxiliary heads learn from labels alone
        if theirs_BC.shape != outputs_BC.shape:
            raise UserError(
                f"the teacher tells {theirs_BC.shape[1]} classes apart, this network {outputs_BC.shape[1]}",
                where=f"train.distill.teacher: {self.config.teacher}",
                fix="Both have to be trained for the same classes.",
            )
        temperature, weight = self.config.temperature, self.config.weight
        log_student_BC = functional.log_softmax(outputs_BC.float() / temperature, dim=1)
        log_teacher_BC = functional.log_softmax(theirs_BC.float() / temperature, dim=1)
        divergence_BC = functional.kl_div(log_student_BC, log_teacher_BC, reduction="none", log_target=True)
        divergence = (divergence_BC.sum(dim=1) * batch["valid"]).sum()
        return (1 - weight) * task_loss + weight * temperature**2 * divergence


def _read(wanted: DistillConfig, split: SplitConfig, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Fills `weights`, and returns what else makes the teacher, as JSON. Called on rank 0 alone."""
    name, step = split_step(wanted.teacher)
    try:
        folder = find(name)
    except UserError as error:
        raise UserError(error.what, where=f"train.distill.teacher: {wanted.teacher}", fix=error.fix) from None
    config = load(folder.config).config
    trust.check(folder, config)
    _check_same_images(split, config.data.train, f"train.distill.teacher: {wanted.teacher}")
    checkpoint = at_step(folder, step)
    weights |= evaluated_weights(checkpoint.tensors)
    return {
        "model": {"name": config.model.name, "args": config.model.args},
        "plugins": plugins.read(config.plugins),
        "channels_last": config.train.channels_last,
        "precision": config.train.precision,
        "identity": {"run": folder.name, "run_id": folder.run_id(), "step": checkpoint.step},
    }


def _check_same_images(mine: SplitConfig, theirs: SplitConfig, where: str) -> None:
    for what, of in (("normalise", _normalisation), ("size", _size)):
        if of(mine) != of(theirs):
            raise UserError(
                f"the teacher learned from images of {what} {of(theirs) or '(none)'}, those here have "
                f"{of(mine) or '(none)'}",
                where=where,
                fix="End data.train.transforms as the teacher's config does.",
            )


def _normalisation(split: SplitConfig) -> Any:
    last = split.transforms[-1] if split.transforms else {}
    return last.get("normalise")


def _size(split: SplitConfig) -> str:
    """What makes the size of an image, such as "32x32, pad 2": the last transform that sets it, paddings after that."""
    made_by: list[str] = []
    for transform in split.transforms:
        ((name, argument),) = transform.items()
        if name in _SIZING:
            size = argument["size"] if isinstance(argument, dict) else argument
            made_by = ["x".join(map(str, [size, size] if isinstance(size, int) else size))]
        elif name == "pad":
            made_by.append(f"pad {argument['pixels'] if isinstance(argument, dict) else argument}")
    return ", ".join(made_by)
