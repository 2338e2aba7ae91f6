"""Learning from a teacher: the loss of Hinton, Vinyals and Dean 2015, and a teacher that is read and never changed."""

import hashlib

import pytest
import tiny
import torch
from torch import nn

from distdl import models
from distdl.checkpoint import format
from distdl.config.schema import DistillConfig
from distdl.errors import UserError
from distdl.run.open import open_run
from distdl.tasks.classify import Classify
from distdl.trainer.distill import Teacher

NORMALISE = {"normalise": {"mean": [0.5], "std": [0.25]}}


# --- loss ---


class Fixed(nn.Module):
    """Answers with the given logits, whatever the image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, image):
        return self.logits


def teacher_of(logits, temperature=4.0, weight=0.9, precision="fp32"):
    config = DistillConfig(teacher="teacher", temperature=temperature, weight=weight)
    return Teacher(Fixed(logits), config, precision, {})


def a_batch(n_rows=5, n_classes=7):
    numbers = torch.Generator().manual_seed(0)
    outputs = torch.randn(n_rows, n_classes, generator=numbers) * 3
    logits = torch.randn(n_rows, n_classes, generator=numbers) * 3
    batch = {"label": torch.arange(n_rows) % n_classes, "valid": torch.ones(n_rows)}
    return outputs.requires_grad_(), logits, batch


@pytest.mark.parametrize("temperature, weight", [(4.0, 0.9), (1.0, 0.5), (0.5, 1.0)])
def test_loss_is_the_papers_sum_of_cross_entropies_but_for_the_teachers_entropy(temperature, weight):
    outputs, logits, batch = a_batch()
    task_loss, _ = Classify().loss(outputs, batch)

    found = teacher_of(logits, temperature, weight).loss(outputs, torch.zeros(5), batch, task_loss)

    p, q = (logits.double() / temperature).softmax(1), (outputs.detach().double() / temperature).softmax(1)
    divergence = (p * (p.log() - q.log())).sum()
    expected = (1 - weight) * task_loss.item() + weight * temperature**2 * divergence.item()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_divergence_is_the_difference_of_the_softened_distributions():
    outputs, logits, batch = a_batch()

    teacher_of(logits, temperature=4.0, weight=1.0).loss(outputs, torch.zeros(5), batch, torch.zeros(())).backward()

    # The paper's equation 2, times T^2
    torch.testing.assert_close(outputs.grad, 4 * ((outputs.detach() / 4).softmax(1) - (logits / 4).softmax(1)))


def test_rows_that_are_not_valid_teach_nothing():
    outputs, logits, batch = a_batch()
    batch["valid"][[1, 4]] = 0
    rest = [0, 2, 3]

    found = teacher_of(logits).loss(outputs, torch.zeros(5), batch, torch.zeros(()))
    expected = teacher_of(logits[rest]).loss(outputs[rest], torch.zeros(3), {"valid": torch.ones(3)}, torch.zeros(()))

    torch.testing.assert_close(found, expected)


def test_a_teacher_of_other_classes_is_refused():
    outputs, logits, batch = a_batch()

    with pytest.raises(UserError, match="the teacher tells 3 classes apart, this network 7"):
        teacher_of(logits[:, :3]).loss(outputs, torch.zeros(5), batch, torch.zeros(()))


@pytest.mark.parametrize("students", [torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("teachers, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_teacher_computes_in_its_own_precision(students, teachers, dtype):
    network, seen = tiny.perceptron(), []
    network[3].register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    teacher = Teacher(network, DistillConfig(teacher="teacher"), teachers, {})
    outputs = torch.zeros(2, 10, dtype=students, requires_grad=True)

    with torch.autocast("cpu", dtype=students, enabled=students is not None):
        loss = teacher.loss(outputs, torch.rand(2, 1, 4, 4), {"valid": torch.ones(2)}, torch.zeros(()))
    loss.backward()

    assert seen == [dtype] and loss.dtype == torch.float32
    assert outputs.grad.any() and network[3].weight.grad is None


# --- the teacher ---


@pytest.fixture
def run(corpus, tmp_path, monkeypatch):
    """make(**overrides) -> a run folder with the checkpoints of steps 5 and 9, whose weights differ."""
    monkeypatch.chdir(tmp_path)

    def make(averaged=False, **overrides):
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        config = tiny.config(corpus, {"model.name": "tiny:with_batch_norm", **named})
        opened = open_run(tmp_path / "runs" / "teacher", config, resume=False)
        for step in (5, 9):
            torch.manual_seed(step)
            network = models.build(config.model.name, config.model.args)
            tensors = {f"model/{name}": value for name, value in network.state_dict().items()}
            if averaged:
                tensors |= {f"ema/{name}": value.detach() + 1 for name, value in network.named_parameters()}
            path = opened.folder.checkpoints / f"step-{step:08}"
            format.write(path, tensors, {}, run_id=opened.folder.run_id(), step=step)
        opened.lease.close()
        return opened.folder

    return make


def student(corpus, teacher="teacher", **overrides):
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return tiny.config(corpus, {"train.distill": {"teacher": teacher}, **named})


def load(config):
    return Teacher.load(config, torch.device("cpu"))


@pytest.mark.parametrize("name, step", [("teacher", 9), ("teacher@5", 5), ("runs/teacher@9", 9)])
def test_the_teacher_has_the_weights_of_the_step_that_was_asked_for(run, corpus, name, step):
    folder = run()

    teacher = load(student(corpus, name))

    torch.manual_seed(step)
    expected = models.build("tiny:with_batch_norm", {})
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in teacher.model.state_dict().items())
    assert teacher.identity == {"run": "teacher", "run_id": folder.run_id(), "step": step}


def test_averaged_weights_teach_where_there_are_some(run, corpus):
    run(averaged=True)

    teacher = load(student(corpus, "teacher@5"))

    torch.manual_seed(5)
    expected = models.build("tiny:with_batch_norm", {})
    assert torch.equal(teacher.model[0].weight, expected[0].weight + 1)
    assert torch.equal(teacher.model[1].running_var, expected[1].running_var)


def test_teaching_changes_neither_the_teacher_nor_its_folder(run, corpus):
    folder = run(train__channels_last=True)
    teacher = load(student(corpus))
    files = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.path.rglob("*") if path.is_file()}
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    outputs, _, batch = a_batch(n_classes=10)

    loss = teacher.loss(outputs, torch.rand(5, 1, 4, 4), batch, torch.zeros(()))
    loss.backward()

    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    assert not [p for p in teacher.model.parameters() if p.requires_grad or p.grad is not None]
    assert teacher.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.path.rglob("*") if path.is_file()}
    assert after == files


# --- mistakes ---


def test_a_run_that_is_not_there_or_has_no_such_step_is_named(run, corpus):
    run()

    with pytest.raises(UserError, match=r"no run 'teachr' here\n.*teacher"):
        load(student(corpus, "teachr"))
    with pytest.raises(UserError, match=r"no checkpoint of step 7\n.*5, 9"):
        load(student(corpus, "teacher@7"))


@pytest.mark.parametrize(
    "theirs, ours, complaint",
    [
        ([NORMALISE], [], "of normalise {'mean.*, those here have"),
        ([NORMALISE], [{"normalise": {"mean": [0.5], "std": [0.5]}}], "of normalise"),
        ([{"resize": [8, 8]}, NORMALISE], [{"random_crop": {"size": 4}}, NORMALISE], r"of size 8x8, .* 4x4"),
        ([{"resize": 8}], [], r"of size 8x8, those here have \(none\)"),
        ([{"resize": 8}, {"pad": 2}], [{"resize": 8}], r"of size 8x8, pad 2, those here have 8x8"),
    ],
)
def test_a_teacher_of_other_images_is_refused(run, corpus, theirs, ours, complaint):
    run(data__train={"shards": str(corpus), "transforms": theirs})

    with pytest.raises(UserError, match=f"train.distill.teacher: teacher: the teacher .* images {complaint}"):
        load(student(corpus, data__train={"shards": str(corpus), "transforms": ours}))


def test_augmentation_may_differ_where_normalisation_and_size_do_not(run, corpus):
    run(data__train={"shards": str(corpus), "transforms": [{"resize": 4}, NORMALISE]})
    ours = [{"random_crop": {"size": [4, 4], "padding": 1}}, {"flip": {}}, NORMALISE]

    load(student(corpus, data__train={"shards": str(corpus), "transforms": ours}))


def test_only_classification_has_a_teacher(corpus):
    with pytest.raises(UserError, match="the task 'regress' has no distribution over classes"):
        load(student(corpus, task={"name": "regress"}))
