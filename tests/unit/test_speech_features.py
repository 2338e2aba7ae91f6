"""distdl/speech: frames, mel banks and features, beside Kaldi's own code and librosa's formulas."""

import numpy as np
import pytest
import torch

from distdl.data.audio import decode_audio
from distdl.errors import UserError
from distdl.speech.features import LibrosaLogMel, LogMel, Mfcc, Spectrogram
from distdl.speech.frames import Framing
from distdl.speech.mel import kaldi_bank, librosa_bank
from distdl.speech.sounds import Sounds

RATE_HZ = 16000
CPU = torch.device("cpu")


def speechlike(n, seed=0):
    """Noise and a moving tone with pauses, as loud as speech, in the units of int16."""
    random, at = np.random.default_rng(seed), np.arange(n)
    tone = 4000 * np.sin(2 * np.pi * (300 * at + 150 * np.sin(at / 3000) * 40) / RATE_HZ)
    loud = 0.5 + 0.5 * np.sign(np.sin(at / 5000))
    return np.round(np.clip(loud * tone + 200 * random.standard_normal(n), -32768, 32767)).astype(np.float32)


def batch(*waveforms, rate_hz=RATE_HZ):
    values = torch.zeros(len(waveforms), max(len(each) for each in waveforms))
    for row, each in enumerate(waveforms):
        values[row, : len(each)] = torch.from_numpy(np.asarray(each))
    lengths = torch.tensor([len(each) for each in waveforms])
    return Sounds(values=values, lengths_B=lengths, keys_B=torch.zeros_like(lengths), rate_hz=rate_hz)


def of_kaldi(kind, waveform, rate_hz=RATE_HZ, **options):
    kaldi = pytest.importorskip("kaldi_native_fbank")
    settings = getattr(kaldi, f"{kind}Options")()
    settings.frame_opts.dither, settings.frame_opts.samp_freq = 0, rate_hz
    for name, value in options.items():
        section, _, key = name.partition("__")
        place = getattr(settings, section) if key else settings
        setattr(place, key or section, value)
    computer = getattr(kaldi, {"Fbank": "OnlineFbank", "Mfcc": "OnlineMfcc"}[kind])(settings)
    computer.accept_waveform(rate_hz, waveform.tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize(("rate_hz", "bins"), [(16000, 80), (16000, 23), (8000, 40)])
def test_log_mel_is_kaldis(rate_hz, bins, snip_edges):
    waveforms = [speechlike(3 * rate_hz), speechlike(rate_hz // 2, seed=1)]

    ours = LogMel(bins, snip_edges=snip_edges)(batch(*waveforms, rate_hz=rate_hz))

    for row, waveform in enumerate(waveforms):
        theirs = of_kaldi("Fbank", waveform, rate_hz, mel_opts__num_bins=bins, frame_opts__snip_edges=snip_edges)
        n = int(ours.lengths_B[row])
        assert n == len(theirs)
        assert np.abs(ours.values[row, :n].numpy() - theirs).max() < 0.002
        assert ours.values[row, n:].abs().sum() == 0


@pytest.mark.needs("data")
@pytest.mark.parametrize("folder", ["fsdd", "asterisk-en"])
def test_log_mel_of_recordings_is_kaldis(real_data, folder):
    """Where a band holds 10^-10 of its frame's energy, fp32 is off by 0.005 on either side."""
    differences = []
    for path in sorted((real_data / folder).rglob("*.wav"))[::12]:
        waveform = decode_audio(path.read_bytes())[0][:, 0].astype(np.float32)
        theirs = of_kaldi("Fbank", waveform, 8000, mel_opts__num_bins=40)
        ours = LogMel(40)(batch(waveform, rate_hz=8000)).values[0].numpy()
        differences.append(np.abs(ours - theirs).ravel())

    of_all = np.concatenate(differences)
    assert len(of_all) > 100_000
    assert of_all.max() < 0.01 and np.median(of_all) < 1e-5
    assert np.mean(of_all > 0.002) < 1e-4


@pytest.mark.parametrize("window", ["hamming", "hann", "rectangular"])
def test_log_mel_has_kaldis_windows(window):
    theirs = of_kaldi(
        "Fbank", speechlike(16000), mel_opts__num_bins=40, frame_opts__window_type=window.replace("hann", "hanning")
    )

    ours = LogMel(40, window=window)(batch(speechlike(16000)))

    assert np.abs(ours.values[0].numpy() - theirs).max() < 0.002


def test_mfcc_is_kaldis_with_energy_or_without():
    waveform = speechlike(32000)

    for energy in (True, False):
        theirs = of_kaldi("Mfcc", waveform, use_energy=energy)
        ours = Mfcc(energy=energy)(batch(waveform))
        assert np.abs(ours.values[0].numpy() - theirs).max() < 0.01  # up to 100 in size


def test_librosa_log_mel_is_its_formula():
    waveform, fft, hop, bins = speechlike(9000), 400, 160, 20

    ours = LibrosaLogMel(bins, fft, hop)(batch(waveform, speechlike(12000, seed=2)))

    padded = np.pad(waveform.astype(np.float64) / 32768, fft // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft) / fft)
    frames = np.stack([padded[at : at + fft] * window for at in range(0, len(waveform) + 1, hop)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log(
        np.maximum(power @ librosa_bank(bins, fft, RATE_HZ, 0.0, 0.0, "slaney", CPU).matrix.numpy(), 1e-10)
    )
    n = int(ours.lengths_B[0])
    assert n == len(expected) == 1 + 9000 // hop
    assert np.abs(ours.values[0, :n].numpy() - expected).max() < 0.002


def test_slaneys_bank_has_the_published_centres():
    bank = librosa_bank(128, 2048, 22050, 0.0, 0.0, "slaney", CPU).matrix

    # Linear up to 1 kHz in steps of the scale, log above: peaks as far apart, and areas of one in Hz.
    peaks_hz = bank.argmax(0) * 22050 / 2048
    assert peaks_hz[10] - peaks_hz[9] == pytest.approx(peaks_hz[5] - peaks_hz[4], abs=11)
    ratios = peaks_hz[101:] / peaks_hz[100:-1]
    assert ratios.max() - ratios.min() < 0.02
    assert (bank.sum(0) * 22050 / 2048)[60:].numpy() == pytest.approx(1.0, abs=0.02)


def test_a_spectrogram_as_deep_speech_2_has_it():
    tone = 1000 * np.sin(2 * np.pi * 1000 * np.arange(16000) / RATE_HZ)

    made = Spectrogram()(batch(tone.astype(np.float32)))

    assert made.values.shape == (1, 99, 161)
    assert (made.values[0].argmax(1) == 20).all()  # bins of 50 Hz


@pytest.mark.parametrize(
    "transform", [LogMel(40), LogMel(40, snip_edges=False), Mfcc(), Spectrogram(), LibrosaLogMel(40)]
)
def test_a_row_does_not_depend_on_the_others_nor_on_padding(transform):
    waveforms = [speechlike(n, seed=n) for n in (5000, 16000, 11111)]

    together = transform(batch(*waveforms))

    for row, waveform in enumerate(waveforms):
        alone = transform(batch(waveform))
        n = int(alone.lengths_B[0])
        assert int(together.lengths_B[row]) == n == int(transform.lengths_after(torch.tensor(len(waveform)), RATE_HZ))
        torch.testing.assert_close(together.values[row, :n], alone.values[0, :n], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "transform", [LogMel(40), LogMel(40, snip_edges=False), Mfcc(), Spectrogram(), LibrosaLogMel(40)]
)
def test_silence_and_a_sound_of_a_few_samples(transform):
    made = transform(batch(np.zeros(8000, np.float32), np.ones(3, np.float32)))

    assert torch.isfinite(made.values).all()
    assert made.lengths_B[0] > 0
    assert made.lengths_B[1] in (0, 1)


def test_more_bins_than_frequencies_are_refused():
    with pytest.raises(UserError, match="mel bins hold no frequency"):
        kaldi_bank(200, 256, 8000, 20.0, 0.0, CPU)


def test_wrong_framing_is_named():
    with pytest.raises(UserError, match="no window 'hanning' - did you mean hann"):
        LogMel(window="hanning")
    with pytest.raises(UserError, match="no argument 'windows'"):
        LogMel(windows="hann")
    with pytest.raises(UserError, match="above 0"):
        Framing(shift_s=0)
