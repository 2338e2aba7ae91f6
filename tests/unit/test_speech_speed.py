"""Speed and noise: what they do to a sound, and that other rows do not matter."""

import math
from fractions import Fraction

import pytest
import torch

from distdl.speech.noise import Noise
from distdl.speech.sounds import Sounds
from distdl.speech.speed import Speed, faster


@pytest.mark.parametrize("factor", [Fraction(9, 10), Fraction(11, 10)])
def test_a_sine_gets_higher_by_the_factor(factor):
    t = torch.arange(4000, dtype=torch.float64)
    got = faster(torch.sin(2 * math.pi * 0.03 * t).float()[None], factor)[0]

    want = torch.sin(2 * math.pi * 0.03 * float(factor) * torch.arange(len(got), dtype=torch.float64)).float()
    assert len(got) == math.ceil(4000 / factor)
    assert (got - want)[100:-100].abs().max() < 0.01


@pytest.mark.parametrize("transform", [Speed(), Noise(p=1.0)])
def test_a_row_does_not_depend_on_the_others(transform):
    x = torch.randn(4, 3000) * 1000
    lengths_B, keys_B = torch.tensor([3000, 2000, 2500, 100]), torch.tensor([1, 22, 333, 4444])
    among = transform(Sounds(values=x, lengths_B=lengths_B, keys_B=keys_B, rate_hz=16000))

    for i, n in enumerate(lengths_B.tolist()):
        one = Sounds(values=x[i : i + 1, :n], lengths_B=lengths_B[i : i + 1], keys_B=keys_B[i : i + 1], rate_hz=16000)
        alone = transform(one)
        m = int(alone.lengths_B[0])
        assert among.lengths_B[i] == m
        torch.testing.assert_close(among.values[i, :m], alone.values[0], atol=0.01, rtol=1e-4)


def test_noise_has_the_ratio_asked_for():
    x = torch.randn(1, 50000) * 1000
    sounds = Sounds(values=x, lengths_B=torch.tensor([50000]), keys_B=torch.tensor([5]), rate_hz=16000)

    added = Noise(snr_db=(10.0, 10.0), p=1.0)(sounds).values - x

    assert abs(20 * math.log10(x.square().mean().sqrt() / added.square().mean().sqrt()) - 10) < 0.2
