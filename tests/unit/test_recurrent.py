"""distdl/models/recurrent.py: the LSTM written out is torch's, and the gradient goes as far back as asked."""

import pytest
import torch

from distdl.models.recurrent import elman, lstm, lstm_fused, to_fused

SMALL = {"classes": 4, "features": 6, "width": 8}


def sounds():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 20, 6, generator=generator, dtype=torch.float64), torch.tensor([20, 13])


@pytest.mark.parametrize("bptt", [None, 7])
def test_own_cell_and_fused_one_give_equal_outputs_and_gradients(bptt):
    torch.manual_seed(0)
    own = lstm(**SMALL, layers=2, bptt=bptt).double()
    fused = to_fused(own)
    features_BTF, lengths_B = sounds()
    inputs = [features_BTF.clone().requires_grad_() for _ in range(2)]

    outputs = [network(each, lengths_B)[0] for network, each in zip((own, fused), inputs)]
    for each in outputs:
        each.square().sum().backward()

    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    of_state = own.get_submodule("layers.1.cell.of_state").weight.grad
    torch.testing.assert_close(of_state, fused.get_submodule("layers.1.cell.lstm").weight_hh_l0.grad)


def test_only_an_lstm_of_ones_own_has_a_fused_form():
    with pytest.raises(ValueError, match="fused form"):
        to_fused(elman(**SMALL))


@pytest.mark.parametrize("network", [elman, lstm, lstm_fused])
def test_the_gradient_stops_at_the_border_of_a_stretch(network):
    features_BTF, lengths_B = sounds()
    features_BTF.requires_grad_()
    torch.manual_seed(0)
    cut, whole = (network(**SMALL, layers=1, bptt=bptt).double() for bptt in (5, None))
    whole.load_state_dict(cut.state_dict())

    logits, _ = cut(features_BTF, lengths_B)
    (gradient,) = torch.autograd.grad(logits[0, 12].sum(), features_BTF)

    assert gradient[0, 10:13].abs().amin() > 0
    assert gradient[0, :10].abs().sum() == 0
    torch.testing.assert_close(logits, whole(features_BTF, lengths_B)[0])


def test_elmans_recurrence_is_its_formula():
    torch.manual_seed(0)
    network, (features_BTF, lengths_B) = elman(**SMALL).double(), sounds()
    cell = network.get_submodule("layers.0.cell")

    state = torch.zeros(8, dtype=torch.float64)
    for frame in features_BTF[0]:
        state = torch.tanh(cell.of_input.weight @ frame + cell.of_input.bias + cell.of_state.weight @ state)
    expected = network.classifier(state)

    torch.testing.assert_close(network(features_BTF, lengths_B)[0][0, -1], expected)
