"""Networks of one unit learn what textbooks say they learn."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from distdl import models
from distdl.errors import UserError
from distdl.models import zoo
from distdl.tasks.multilabel import Multilabel
from distdl.tasks.regress import Regress

CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def trained(network: Any, task: Any, inputs: torch.Tensor, labels: torch.Tensor, *, lr: float, steps: int) -> Any:
    """After gradient descent on the task's loss of all samples at once."""
    batch = {"label": labels[:, None], "valid": torch.ones(len(labels))}
    parameters = list(network.parameters())
    for _ in range(steps):
        loss, count = task.loss(network(inputs), batch)
        gradients = torch.autograd.grad(loss / count, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter -= lr * gradient
    return network


# --- perceptron ---


def test_a_perceptron_says_one_where_the_sum_is_not_negative() -> None:
    network: Any = models.build("perceptron", {})
    with torch.no_grad():
        network.units.linear.weight.copy_(torch.tensor([[1.0, 1.0]]))
        network.units.linear.bias.fill_(-1.0)

    assert network(CORNERS).flatten().tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("label, moved", [(0.0, [-2.0, 3.0, -1.0]), (1.0, [0.0, 0.0, 0.0])])
def test_a_step_on_the_squared_error_is_rosenblatts_rule(label: float, moved: list[float]) -> None:
    network: Any = models.build("perceptron", {})  # all weights are 0, so that it says 1

    trained(network, Regress(), torch.tensor([[2.0, -3.0]]), torch.tensor([label]), lr=0.5, steps=1)

    assert [*network.units.linear.weight[0].tolist(), network.units.linear.bias.item()] == moved


@pytest.mark.parametrize("name, labels, learnt", [("and", [0, 0, 0, 1], True), ("xor", [0, 1, 1, 0], False)])
def test_a_perceptron_learns_what_a_line_separates_and_nothing_else(name: str, labels: list[int], learnt: bool) -> None:
    network, expected = models.build("perceptron", {}), torch.tensor(labels, dtype=torch.float32)

    trained(network, Regress(), CORNERS, expected, lr=0.5, steps=50)

    assert (network(CORNERS).flatten().tolist() == labels) is learnt


# --- regression ---

POINTS, HEIGHTS = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 5.0])


def linear_regression_from(slope: float, height: float) -> Any:
    network: Any = models.build("linear_regression", {})
    with torch.no_grad():
        network.units.linear.weight.fill_(slope)
        network.units.linear.bias.fill_(height)
    return network


def test_linear_regression_has_the_gradient_that_one_works_out_by_hand() -> None:
    network = linear_regression_from(-1.0, 5.0)

    # Mean squared error of (1, 3), (2, 5): its derivatives are 5m + 3b - 13 and 3m + 2b - 8.
    loss = F.mse_loss(network(POINTS).flatten(), HEIGHTS)
    loss.backward()

    assert loss.item() == 2.5
    assert (network.units.linear.weight.grad.item(), network.units.linear.bias.grad.item()) == (-3.0, -1.0)


def test_linear_regression_finds_the_line_below_the_largest_stable_learning_rate_and_not_above() -> None:
    converged = trained(linear_regression_from(-1.0, 5.0), Regress(), POINTS, HEIGHTS, lr=0.29, steps=600)
    diverged = trained(linear_regression_from(-1.0, 5.0), Regress(), POINTS, HEIGHTS, lr=0.295, steps=600)

    line = converged.units.linear
    assert (line.weight.item(), line.bias.item()) == pytest.approx((2.0, 1.0), abs=1e-2)
    assert abs(diverged.units.linear.weight.item()) > 1e3  # 2 / the largest eigenvalue is 2 / 6.854 = 0.2918


def test_logistic_regression_learns_or_by_its_logit() -> None:
    network = models.build("logistic_regression", {})

    trained(network, Multilabel(), CORNERS, torch.tensor([0.0, 1.0, 1.0, 1.0]), lr=1.0, steps=500)

    assert (network(CORNERS).flatten() > 0).tolist() == [False, True, True, True]


# --- sizes ---


def test_a_network_of_two_inputs_two_hidden_units_and_one_output_has_9_parameters() -> None:
    network = models.build("mlp", {"inputs": 2, "hidden": 2, "classes": 1, "activation": "sigmoid"})

    assert zoo.count(network, (2, 1, 1)) == zoo.Count(9, 6)


@pytest.mark.parametrize("name", ["perceptron", "linear_regression", "logistic_regression"])
def test_one_unit_has_a_weight_for_each_input_and_a_bias(name: str) -> None:
    network = models.build(name, {"inputs": 12})

    assert zoo.count(network, (3, 2, 2)) == zoo.Count(13, 12)
    with pytest.raises(UserError, match=r"takes 12 values per sample, these have 3\n.*model.args.inputs=3"):
        network(torch.zeros(1, 3))
