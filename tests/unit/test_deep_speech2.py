"""Deep Speech 2: its published size, padding that changes nothing, and chunks that give what the whole sound gives."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from distdl import models
from distdl.errors import UserError
from distdl.models.deep_speech2 import DeepSpeech2

BOTH_WAYS, STREAMING = "distdl.models.deep_speech2:deep_speech2", "distdl.models.deep_speech2:deep_speech2_streaming"
SMALL: dict[str, Any] = {"classes": 5, "features": 9, "channels": 2, "layers": 2, "width": 6}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
every_cell = pytest.mark.parametrize("cell", GATES)
every_network = pytest.mark.parametrize("name", [BOTH_WAYS, STREAMING], ids=["both ways", "streaming"])


def fresh(name: str = BOTH_WAYS, **args: Any) -> Any:
    torch.manual_seed(0)
    return models.build(name, {**SMALL, **args}).double()


def sounds(*lengths: int, features: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features_BTF = torch.randn(len(lengths), max(1, *lengths), features, generator=generator, dtype=torch.float64)
    return features_BTF, torch.tensor(lengths)


def with_statistics(network: Any) -> Any:
    """In evaluation mode, with running statistics that are not those of a fresh network."""
    network.train()
    for _ in range(3):
        network(*sounds(40, 33))
    return network.eval()


# --- sizes ---


def test_the_default_network_is_as_large_as_the_papers_seven_recurrences_of_1760() -> None:
    with torch.device("meta"):
        network = models.build(BOTH_WAYS, {})

    convolutions = 32 * 11 * 41 + 32 * 32 * 11 * 21 + 96 * 32 * 11 * 21 + 2 * (32 + 32 + 96)
    first, others = 2 * 1760 * (96 * 21 + 1760 + 2), 6 * (2 * 1760 * (1760 + 1760 + 2) + 2 * 1760)
    output = 2 * 1760 + 1761 * 29

    assert sum(weight.numel() for weight in network.parameters()) == convolutions + first + others + output
    assert convolutions + first + others + output == pytest.approx(88.7e6, rel=0.001)


@every_cell
@pytest.mark.parametrize("name, directions", [(BOTH_WAYS, 2), (STREAMING, 1)], ids=["both ways", "streaming"])
def test_recurrences_have_the_weights_of_their_gates(name: str, directions: int, cell: str) -> None:
    layer = fresh(name, cell=cell, width=6).get_submodule("layers.1.recurrence")

    assert sum(weight.numel() for weight in layer.parameters()) == directions * GATES[cell] * 6 * (6 + 6 + 2)


@pytest.mark.parametrize("convolutions, outputs", [(1, 32 * 81), (2, 32 * 41), (3, 96 * 21)])
def test_the_recurrences_take_what_the_convolutions_leave_of_161_features(convolutions: int, outputs: int) -> None:
    with torch.device("meta"):
        network = models.build(BOTH_WAYS, {"convolutions": convolutions})

    assert network.get_submodule("layers.0.recurrence.cell").input_size == outputs


@pytest.mark.parametrize("features", [1, 2, 13, 40])
@pytest.mark.parametrize("convolutions", [1, 2, 3])
def test_any_number_of_features_will_do(features: int, convolutions: int) -> None:
    logits_BTC, _ = fresh(features=features, convolutions=convolutions)(*sounds(5, 4, features=features))

    assert logits_BTC.shape == (2, 3, 5) and logits_BTC.isfinite().all()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_logits_have_the_lengths_that_are_told_beforehand(stride: int) -> None:
    network = fresh(stride=stride)
    features_BTF, lengths_B = sounds(0, 1, 2, 3, 4, 7, 12)

    logits_BTC, out_B = network(features_BTF, lengths_B)

    assert out_B.tolist() == network.output_lengths(lengths_B).tolist()
    assert out_B.tolist() == [len(range(0, length, stride)) for length in lengths_B.tolist()]
    assert logits_BTC.shape[1] == out_B.max()


# --- rows ---


@every_network
@every_cell
@pytest.mark.parametrize("training", [True, False])
def test_padding_does_not_matter_whatever_it_holds(name: str, cell: str, training: bool) -> None:
    network = fresh(name, cell=cell).train(training)
    features_BTF, lengths_B = sounds(9, 25, 2)
    padded_BTF = F.pad(features_BTF, (0, 0, 0, 13), value=float("nan"))
    padded_BTF[2, 2:] = float("nan")

    expected_BTC, out_B = network(features_BTF, lengths_B)
    found_BTC, found_B = network(padded_BTF, lengths_B)

    assert found_B.tolist() == out_B.tolist()
    for expected, found, length in zip(expected_BTC, found_BTC, out_B.tolist()):
        torch.testing.assert_close(found[:length], expected[:length])


@every_network
@every_cell
def test_in_evaluation_a_row_knows_nothing_of_the_others(name: str, cell: str) -> None:
    network = with_statistics(fresh(name, cell=cell))
    features_BTF, lengths_B = sounds(9, 25, 2, 1)

    together_BTC, out_B = network(features_BTF, lengths_B)

    for row, length in enumerate(lengths_B.tolist()):
        alone_BTC, _ = network(features_BTF[row : row + 1, :length], lengths_B[row : row + 1])
        torch.testing.assert_close(together_BTC[row, : out_B[row]], alone_BTC[0])


@every_network
@pytest.mark.parametrize("lengths", [(0, 1), (1,), (0,), (7, 0)])
def test_sounds_of_no_and_of_one_frame_give_finite_gradients(name: str, lengths: tuple[int, ...]) -> None:
    network = fresh(name)

    logits_BTC, _ = network(*sounds(*lengths))
    logits_BTC.square().sum().backward()

    assert logits_BTC.isfinite().all()
    for weight_name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), weight_name


# --- chunk by chunk ---


def in_chunks(network: DeepSpeech2, features_BTF: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    told, state = [], None
    ends = list(itertools.accumulate(sizes))
    for begin, end in zip([0, *ends], ends):
        logits_BTC, state = network.step(features_BTF[:, begin:end], state, last=end == ends[-1])
        told.append(logits_BTC)
    return torch.cat(told, dim=1)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    convolutions=st.integers(1, 3),
    cell=st.sampled_from(list(GATES)),
    stride=st.integers(1, 3),
    look_ahead=st.sampled_from([1, 4, 19]),
)
def test_chunks_of_any_size_give_the_logits_of_the_whole(
    sizes: list[int], convolutions: int, cell: str, stride: int, look_ahead: int
) -> None:
    args = {"convolutions": convolutions, "cell": cell, "stride": stride, "look_ahead": look_ahead}
    network = with_statistics(fresh(STREAMING, **args))
    features_BTF, lengths_B = sounds(sum(sizes), sum(sizes))

    whole_BTC, _ = network(features_BTF, lengths_B)

    torch.testing.assert_close(in_chunks(network, features_BTF, sizes), whole_BTC)


def test_logits_come_out_as_soon_as_what_they_look_ahead_to_is_there() -> None:
    """15 frames ahead: 5 by each convolution, and 5 of the row convolution."""
    network = with_statistics(fresh(STREAMING, stride=1, look_ahead=5))
    features_BTF, _ = sounds(60)

    first_BTC, state = network.step(features_BTF[:, :40])
    second_BTC, _ = network.step(features_BTF[:, 40:41], state)

    assert (first_BTC.shape[1], second_BTC.shape[1]) == (40 - 15, 1)


def test_a_streaming_networks_logits_look_no_further_ahead_than_it_says() -> None:
    network = with_statistics(fresh(STREAMING, stride=1, look_ahead=5))
    features_BTF, lengths_B = sounds(60)
    features_BTF.requires_grad_()

    network(features_BTF, lengths_B)[0][0, 20].square().sum().backward()

    reached = features_BTF.grad[0].abs().sum(1).nonzero().flatten()
    assert (reached[0].item(), reached[-1].item()) == (0, 35)


def test_only_a_network_that_does_not_look_both_ways_goes_chunk_by_chunk() -> None:
    features_BTF, _ = sounds(8)
    with pytest.raises(ValueError, match="deep_speech2_streaming in evaluation mode"):
        fresh(BOTH_WAYS).eval().step(features_BTF)
    with pytest.raises(ValueError, match="deep_speech2_streaming in evaluation mode"):
        fresh(STREAMING).train().step(features_BTF)


# --- what a config may get wrong, and blocks ---


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("cell", "qrnn", "'qrnn' is no recurrence\n.*rnn, gru, lstm"),
        ("convolutions", 4, "4 convolutions: from 1 to 3"),
        ("width", 0, "0 is not a whole number of at least 1"),
    ],
)
def test_an_impossible_argument_is_refused_by_its_key(key: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=rf"model\.args\.{key}: {said}"):
        fresh(**{key: value})


def test_features_of_another_number_are_refused() -> None:
    with pytest.raises(UserError, match=r"frames of 9 features, these have 8\n.*model.args.features=8"):
        fresh()(*sounds(5, features=8))


@every_network
def test_its_blocks_are_called_once_each_in_their_order(name: str) -> None:
    network, called = fresh(name), []
    for block in models.blocks(network):
        network.get_submodule(block).register_forward_hook(lambda *_, block=block: called.append(block))

    network(*sounds(30))

    assert called == models.blocks(network)
    assert called[-2:] == ["layers.0", "layers.1"]
