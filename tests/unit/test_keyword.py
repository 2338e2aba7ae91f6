"""Keyword spotters: their published sizes, and rows that know nothing of padding and of each other."""

import pytest
import torch
import torch.nn.functional as F

from distdl import models
from distdl.errors import UserError

PUBLISHED = {  # Tang and Lin 2018, table 2, in thousands
    "keyword_res8": (45, 6, 110),
    "keyword_res8_narrow": (19, 6, 19.9),
    "keyword_res15": (45, 13, 238),
    "keyword_res15_narrow": (19, 13, 42.6),
}
FUNCTIONS = {name: f"distdl.models.keyword:{name}" for name in PUBLISHED}
every_network = pytest.mark.parametrize("name", PUBLISHED)
both_sorts = pytest.mark.parametrize("name", ["keyword_res8_narrow", "keyword_res15_narrow"])


def fresh(name: str, **args: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build(FUNCTIONS[name], args)


def sounds(*lengths: int, features: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features_BTF = torch.randn(len(lengths), max(1, *lengths), features, generator=generator, dtype=torch.float64)
    return features_BTF, torch.tensor(lengths)


@every_network
def test_it_has_as_many_parameters_as_the_paper_says(name: str) -> None:
    channels, convolutions, thousands = PUBLISHED[name]

    parameters = sum(parameter.numel() for parameter in fresh(name).parameters())

    assert parameters == 9 * channels + convolutions * 9 * channels**2 + 12 * (channels + 1)
    assert parameters / 1000 == pytest.approx(thousands, rel=0.005)


@both_sorts
@pytest.mark.parametrize("training", [True, False])
def test_padding_does_not_matter_whatever_it_holds(name: str, training: bool) -> None:
    network = fresh(name).double().train(training)
    features_BTF, lengths_B = sounds(9, 25, 2)
    padded_BTF = F.pad(features_BTF, (0, 0, 0, 13), value=float("nan"))

    torch.testing.assert_close(network(padded_BTF, lengths_B), network(features_BTF, lengths_B))


@both_sorts
def test_in_evaluation_a_row_knows_nothing_of_the_others(name: str) -> None:
    network = fresh(name).double()
    features_BTF, lengths_B = sounds(9, 25, 2)
    network.train()(features_BTF, lengths_B)  # running statistics of their own
    network.eval()

    together = network(features_BTF, lengths_B)
    alone = torch.cat(
        [network(row[None, :length], torch.tensor([length])) for row, length in zip(features_BTF, lengths_B.tolist())]
    )

    torch.testing.assert_close(together, alone)


@both_sorts
@pytest.mark.parametrize("lengths", [(0, 1), (1,), (0,), (7, 0)])
def test_sounds_of_no_and_of_one_frame_give_finite_gradients(name: str, lengths: tuple[int, ...]) -> None:
    network = fresh(name).double()

    logits = network(*sounds(*lengths))
    logits.square().sum().backward()

    assert logits.shape == (len(lengths), 12) and logits.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_res15_sees_a_second_before_its_last_convolution() -> None:
    """From the paper: a receptive field of 125 frames."""
    network = fresh("keyword_res15_narrow").double().eval()
    features_BTF, lengths_B = sounds(161)
    features_BTF.requires_grad_()
    seen = []
    network.last.register_forward_hook(lambda *called: seen.append(called[2]))

    network(features_BTF, lengths_B)
    seen[0][0, :, 80].abs().sum().backward()

    reached = features_BTF.grad[0].abs().sum(1).nonzero().flatten()
    assert (reached[0].item(), reached[-1].item()) == (80 - 62, 80 + 62)


@both_sorts
def test_its_blocks_are_called_once_each_in_their_order(name: str) -> None:
    network, called = fresh(name).double(), []
    for block in models.blocks(network):
        network.get_submodule(block).register_forward_hook(lambda *_, block=block: called.append(block))

    network(*sounds(30))

    assert called == models.blocks(network) != []


@both_sorts
def test_features_of_another_number_are_refused_and_few_are_taken(name: str) -> None:
    with pytest.raises(UserError, match=r"frames of 40 features, these have 39\n.*model.args.features=39"):
        fresh(name).double()(*sounds(5, features=39))
    assert fresh(name, features=1, classes=3).double()(*sounds(5, 6, features=1)).shape == (2, 3)
