"""What perturbs sounds and features: what is drawn, and what stays as it is."""

import numpy as np
import pytest
import torch

from distdl.errors import UserError
from distdl.speech.deltas import Deltas
from distdl.speech.noise import Noise
from distdl.speech.perturb import TimeShift, Volume
from distdl.speech.reverb import Reverberation, convolved
from distdl.speech.sounds import Sounds
from distdl.speech.spec_augment import SpecAugment
from distdl.speech.speed import Speed
from tests import tones

RATE_HZ = 8000


def sounds_of(*lengths, seed=0):
    values = 1000 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    own = torch.tensor(lengths)
    values *= torch.arange(max(lengths)) < own[:, None]
    return Sounds(values=values, lengths_B=own, keys_B=torch.arange(len(lengths)) * 7919 + 5, rate_hz=RATE_HZ)


def features_of(*lengths, n=20):
    own = torch.tensor(lengths)
    values = torch.ones(len(lengths), max(lengths), n) * (torch.arange(max(lengths)) < own[:, None])[:, :, None]
    return Sounds(values=values, lengths_B=own, keys_B=torch.arange(len(lengths)) * 104729 + 3, rate_hz=RATE_HZ)


@pytest.fixture
def corpus(tmp_path):
    random = np.random.default_rng(0)
    for number, n in enumerate((900, 50_000)):
        noise = (2000 * random.standard_normal(n)).astype(np.int16)
        (tmp_path / f"{number}.flac").write_bytes(tones.file_of(noise, 2 * RATE_HZ))
    return str(tmp_path)


OF_WAVEFORMS = [Volume(), TimeShift(), Noise(p=1), Reverberation(p=1), Speed([0.9, 1.1])]


@pytest.mark.parametrize("transform", OF_WAVEFORMS, ids=lambda t: type(t).__name__)
def test_a_row_depends_on_its_key_alone_and_padding_stays_silent(transform):
    sounds = sounds_of(4000, 2500, 3333)

    together, again = transform(sounds), transform(sounds)

    assert torch.equal(together.values, again.values)
    for row, n in enumerate((4000, 2500, 3333)):
        alone = transform(
            Sounds(
                values=sounds.values[row : row + 1, :n],
                lengths_B=sounds.lengths_B[row : row + 1],
                keys_B=sounds.keys_B[row : row + 1],
                rate_hz=RATE_HZ,
            )
        )
        length = int(together.lengths_B[row])
        assert length == int(alone.lengths_B[0])
        torch.testing.assert_close(together.values[row, :length], alone.values[0, :length], rtol=1e-4, atol=0.05)
        assert together.values[row, length:].abs().sum() == 0


def test_another_key_draws_something_else():
    sounds = sounds_of(4000)
    other = Sounds(values=sounds.values, lengths_B=sounds.lengths_B, keys_B=sounds.keys_B + 1, rate_hz=RATE_HZ)

    for transform in OF_WAVEFORMS[:-1]:
        assert not torch.equal(transform(sounds).values, transform(other).values)


@pytest.mark.parametrize("has_corpus", [False, True])
def test_noise_is_as_loud_as_was_asked(has_corpus, corpus):
    sounds = sounds_of(4000, 2000)

    made = Noise(snr_db=(10, 10), p=1, corpus=corpus if has_corpus else None)(sounds)

    for row, n in enumerate((4000, 2000)):
        signal, noise = sounds.values[row, :n], (made.values - sounds.values)[row, :n]
        ratio_db = 10 * torch.log10(signal.square().mean() / noise.square().mean())
        assert ratio_db == pytest.approx(10, abs=0.01)


def test_silence_stays_silent():
    silent = Sounds(
        values=torch.zeros(1, 900), lengths_B=torch.tensor([900]), keys_B=torch.tensor([1]), rate_hz=RATE_HZ
    )

    for transform in OF_WAVEFORMS:
        made = transform(silent)
        assert made.values.abs().sum() == 0 and torch.isfinite(made.values).all()


def test_a_room_keeps_loudness_and_length(corpus):
    sounds = sounds_of(4000)

    for room in (Reverberation(p=1), Reverberation(p=1, corpus=corpus)):
        made = room(sounds)
        assert made.values.shape == sounds.values.shape
        assert made.values.square().sum() == pytest.approx(float(sounds.values.square().sum()), rel=1e-3)
        assert not torch.allclose(made.values, sounds.values, atol=100)


def test_convolution_is_the_sum_that_defines_it():
    sound, response = torch.randn(50), torch.randn(7)

    expected = torch.tensor(np.convolve(sound.numpy(), response.numpy())[:50])

    torch.testing.assert_close(convolved(sound, response), expected, rtol=1e-4, atol=1e-5)


def test_a_corpus_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no sound below"):
        Noise(corpus=str(tmp_path / "nothing"))
    (tmp_path / "broken.flac").write_bytes(b"fLaC")
    with pytest.raises(UserError, match=r"broken\.flac"):
        Noise(corpus=str(tmp_path), p=1)(sounds_of(100))


def test_masks_are_of_a_rows_own_frames_and_within_their_limits():
    made = SpecAugment(frequency_masks=1, frequency=5, time_masks=1, time=30, longest=0.2)(features_of(100, 40, 100))

    hidden = made.values == 0
    for row, n in enumerate((100, 40, 100)):
        own = hidden[row, :n]
        whole_frames, whole_bins = own.all(1), own.all(0)
        assert int(whole_frames.sum()) <= min(30, n // 5)
        assert int(whole_bins.sum()) <= 5
        assert torch.equal(own, whole_frames[:, None] | whole_bins)
    assert hidden[0].sum() != hidden[2].sum() or not torch.equal(hidden[0], hidden[2])


def test_deltas_are_differences_with_repeated_ends():
    ramp = torch.arange(12.0)[None, :, None].repeat(2, 1, 1)
    ramp[1, 8:] = 0
    sounds = Sounds(
        values=ramp, lengths_B=torch.tensor([12, 8]), keys_B=torch.zeros(2, dtype=torch.int64), rate_hz=RATE_HZ
    )

    made = Deltas(order=1)(sounds)

    assert made.values.shape == (2, 12, 2)
    torch.testing.assert_close(made.values[0, 2:-2, 1], torch.ones(8))
    torch.testing.assert_close(made.values[1, 2:6, 1], torch.ones(4))
    assert made.values[1, 8:].abs().sum() == 0
