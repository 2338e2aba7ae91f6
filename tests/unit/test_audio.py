"""Sounds become int16 samples as they were written; what is damaged is never half a sound."""

import io
import sys
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.audio import Length, audio_length, decode_audio, is_audio
from distdl.errors import UserError

soundfile = pytest.importorskip("soundfile")

RATE = 16000


def tone(n=RATE, channels=1):
    """A noisy tone, int16 (n, channels)."""
    noise = np.random.default_rng(n).normal(0, 500, (n, channels))
    return np.round(noise + 9000 * np.sin(np.arange(n) / 7)[:, None]).astype(np.int16)


def encoded(samples, kind="FLAC", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["FLAC", "WAV", "WAVEX", "AIFF"])
def test_lossless_formats_give_what_was_written(kind, channels):
    samples = tone(channels=channels)

    found, rate_hz = decode_audio(encoded(samples, kind, "PCM_16"))

    assert rate_hz == RATE and found.dtype == np.int16 and (found == samples).all()


@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(st.integers(-32768, 32767), min_size=n, max_size=n))))
def test_a_wav_of_16_bits_is_what_the_standard_library_wrote(rows):
    file = io.BytesIO()
    n_channels = len(rows[0]) if rows else 1
    with wave.open(file, "wb") as writer:
        writer.setparams((n_channels, 2, 8000, 0, "NONE", ""))
        writer.writeframes(np.array(rows, "<i2").tobytes())

    if not rows:
        with pytest.raises(ValueError, match="no samples"):
            decode_audio(file.getvalue())
        return
    found, rate_hz = decode_audio(file.getvalue())

    assert rate_hz == 8000 and found.tolist() == rows
    assert audio_length(file.getvalue()) == Length(len(rows), n_channels, 8000)


def test_a_wav_may_have_other_chunks_and_come_from_a_pipe():
    samples = tone(100)
    plain = encoded(samples, "WAV", "PCM_16")
    at = plain.index(b"data")
    noted = plain[:at] + b"LIST\x03\x00\x00\x00abc\x00" + plain[at:] + b"id3 \x02\x00\x00\x00xy"
    piped = plain[: at + 4] + b"\xff" * 4 + plain[at + 8 :]

    assert decode_audio(noted)[0].tolist() == decode_audio(piped)[0].tolist() == samples.tolist()


@pytest.mark.parametrize("kind, subtype", [("FLAC", "PCM_24"), ("WAV", "PCM_24"), ("WAV", "PCM_32")])
def test_of_more_bits_the_upper_16_are_kept(kind, subtype):
    samples = np.array([[0], [1 << 16], [-1 << 16], [0x7FFF << 16], [-0x8000 << 16], [0x12345678]], np.int32)

    found, _ = decode_audio(encoded(samples, kind, subtype))

    assert found[:, 0].tolist() == [0, 1, -1, 0x7FFF, -0x8000, 0x1234]


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_are_scaled_and_clipped(subtype):
    samples = np.array([0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 1.4 / 32768])[:, None]

    found, _ = decode_audio(encoded(samples, "WAV", subtype))

    assert found[:, 0].tolist() == [0, 16384, -16384, 32767, -32768, 32767, -32768, 1]


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_lossy_formats_come_close(kind):
    samples = tone()

    found, rate_hz = decode_audio(encoded(samples, kind))

    assert rate_hz == RATE and found.shape == samples.shape
    assert np.corrcoef(found[:, 0], samples[:, 0])[0, 1] > 0.98


def test_too_loud_a_sound_is_clipped_and_does_not_wrap_round():
    square = np.where(np.arange(RATE) // 20 % 2, 1.0, -1.0)[:, None]  # overshoots where it is coded with loss

    found, _ = decode_audio(encoded(square, "OGG", "VORBIS"))

    assert (np.sign(found[100:-100, 0]) == np.sign(square[100:-100, 0])).mean() > 0.98


@pytest.mark.parametrize(
    "kind, subtype", [("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("OGG", None)]
)
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_sound_that_was_cut_off_is_damaged(kind, subtype, kept):
    whole = encoded(tone(), kind, subtype)

    with pytest.raises(ValueError, match=r"decoded|damaged|ends after|cut off|no chunk"):
        decode_audio(whole[: int(kept * len(whole))])


@given(st.binary(max_size=60))
def test_noise_is_no_sound(noise):
    for head in (b"", b"fLaC", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", b"OggS"):
        try:
            samples, _ = decode_audio(head + noise)
        except ValueError as error:
            assert str(error)
        else:
            assert len(samples)


def test_a_flipped_bit_in_a_flac_is_noticed():
    whole = bytearray(encoded(tone()))
    whole[len(whole) // 2] ^= 0x10

    with pytest.raises(ValueError, match="damaged"):
        decode_audio(bytes(whole))


def test_a_flac_that_does_not_know_its_length_is_refused():
    whole = bytearray(encoded(tone()))
    whole[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples, as of an encoder that wrote into a pipe
    whole[22:26] = bytes(4)

    for read in (decode_audio, audio_length):
        with pytest.raises(ValueError, match="does not say how long it is"):
            read(bytes(whole))


def test_a_header_that_promises_too_much_does_not_fill_the_memory():
    whole = bytearray(encoded(tone(1000)))
    whole[21] |= 0x0F
    whole[22:26] = b"\xff" * 4

    with pytest.raises(ValueError, match="more than 1,073,741,824 samples"):
        decode_audio(bytes(whole))


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "OGG"])
def test_the_length_is_read_off_the_header(kind):
    length = audio_length(encoded(tone(8000, 2), kind))

    assert length == Length(8000, 2, RATE) and length.seconds == 0.5


def test_without_soundfile_the_missing_package_is_named_but_plain_wav_is_read(monkeypatch):
    flac, wav = encoded(tone(10)), encoded(tone(10), "WAV", "PCM_16")
    monkeypatch.setitem(sys.modules, "soundfile", None)

    assert decode_audio(wav)[0].tolist() == tone(10).tolist()
    with pytest.raises(UserError, match="soundfile") as caught:
        decode_audio(flac)
    assert caught.value.fix == "pip install 'distdl[audio]'"


def test_a_sound_is_known_by_the_last_part_of_its_extension():
    assert is_audio("flac") and is_audio("left.wav") and not is_audio("wav.txt") and not is_audio("jpg")
