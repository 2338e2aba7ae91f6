"""Every network of sounds in the zoo keeps the same promises, whatever its family: it is called with features and how
many frames of them are each row's own, and neither padding nor other rows change what it says of a row."""

import inspect
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from distdl import models, registry
from distdl.catalogue import ENTRIES
from distdl.errors import UserError

NAMES = [name for name, entry in ENTRIES.items() if entry.is_acoustic]
# As small as each network takes, of the arguments that it has.
SMALL = {"classes": 5, "features": 16, "channels": 4, "layers": 2, "width": 16}
every_network = pytest.mark.parametrize("name", NAMES)


class Said(NamedTuple):
    """What a network says of sounds: frames of logits and how many are each row's own; or logits of whole sounds."""

    logits: torch.Tensor
    lengths: list[int] | None

    def of_row(self, row: int) -> torch.Tensor:
        return self.logits[row] if self.lengths is None else self.logits[row, : self.lengths[row]]


def fresh(name: str, **args: Any) -> Any:
    torch.manual_seed(0)
    known = inspect.signature(registry.resolve(name, registry.MODELS, "model")).parameters
    network = models.build(name, {key: value for key, value in SMALL.items() if key in known} | args).double()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network


def sounds(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features_BTF = torch.randn(len(lengths), max(1, *lengths), SMALL["features"], generator=generator).double()
    return features_BTF, torch.tensor(lengths)


def said(network: Any, features_BTF: torch.Tensor, lengths_B: torch.Tensor) -> Said:
    result = network(features_BTF, lengths_B)
    return Said(result, None) if isinstance(result, torch.Tensor) else Said(result[0], result[1].tolist())


@every_network
def test_a_training_step_gives_logits_and_finite_gradients_for_every_parameter(name: str) -> None:
    network = fresh(name)

    logits, lengths = said(network, *sounds(21, 40))
    logits.square().sum().backward()

    assert network.is_acoustic
    assert logits.shape == ((2, 5) if lengths is None else (2, max(lengths), 5))
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


@every_network
@pytest.mark.parametrize("training", [True, False])
def test_padding_does_not_matter_whatever_it_holds(name: str, training: bool) -> None:
    network = fresh(name).train(training)
    features_BTF, lengths_B = sounds(9, 25, 2)
    padded_BTF = F.pad(features_BTF, (0, 0, 0, 13), value=1e3)
    padded_BTF[2, 2:] = -1e3

    without, padded = said(network, features_BTF, lengths_B), said(network, padded_BTF, lengths_B)

    assert padded.lengths == without.lengths
    for row in range(3):
        torch.testing.assert_close(padded.of_row(row), without.of_row(row))


@every_network
def test_in_evaluation_a_row_knows_nothing_of_the_others(name: str) -> None:
    network = fresh(name)
    features_BTF, lengths_B = sounds(9, 25, 2)
    network.train()(features_BTF, lengths_B)  # running statistics that are not a fresh network's
    network.eval()

    together = said(network, features_BTF, lengths_B)

    for row, length in enumerate(lengths_B.tolist()):
        alone = said(network, features_BTF[row : row + 1, :length], lengths_B[row : row + 1])
        torch.testing.assert_close(together.of_row(row), alone.of_row(0))


@every_network
def test_lengths_of_logits_are_known_beforehand_and_sounds_may_be_short(name: str) -> None:
    network = fresh(name).eval()
    features_BTF, lengths_B = sounds(0, 1, 2, 7)

    logits, lengths = said(network, features_BTF, lengths_B)

    assert logits.isfinite().all()
    if lengths is not None:
        assert lengths == network.output_lengths(lengths_B).tolist()
        assert logits.shape[1] >= max(lengths)


@every_network
def test_its_blocks_are_called_once_each_in_their_order(name: str) -> None:
    network, called = fresh(name), []
    for block in models.blocks(network):
        network.get_submodule(block).register_forward_hook(lambda *_, block=block: called.append(block))

    network(*sounds(30))

    assert called == models.blocks(network) != []
    assert not [(a, b) for a in called for b in called if b.startswith(f"{a}.")]
    assert not [block for block in called if type(network.get_submodule(block)).__module__.startswith("torch.")]


@every_network
def test_bf16_autocast_gives_finite_logits(name: str) -> None:
    network = fresh(name).float()
    features_BTF, lengths_B = sounds(9, 25)

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        logits, _ = said(network, features_BTF.float(), lengths_B)

    assert logits.isfinite().all()


@every_network
def test_it_checks_its_number_of_classes_and_its_features(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.args\.classes"):
        models.build(name, {"classes": 0})
    with pytest.raises(UserError, match=r"frames of 13 features, these have 16\n.*model\.args\.features=16"):
        fresh(name, features=13)(*sounds(5))
