"""Sounds become int16 samples as they were written; what is damaged is never half a sound."""

import io
import sys
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distdl.data.audio import Length, audio_length, decode_audio, file_length, is_audio, part_of, read_part
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


# --- parts of files ---


@pytest.mark.parametrize("kind, subtype", [("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("OGG", "VORBIS")])
def test_a_part_of_a_file_is_what_the_whole_has_there(tmp_path, kind, subtype):
    path = tmp_path / "sound"
    path.write_bytes(encoded(tone(channels=2), kind, subtype))
    whole, _ = decode_audio(path.read_bytes())

    part, rate_hz = read_part(path, 0.25, 0.5)
    rest, _ = read_part(path, 0.75, None)

    assert rate_hz == RATE and (part == whole[4000:12000]).all() and (rest == whole[12000:]).all()
    assert file_length(path) == audio_length(path.read_bytes()) == Length(RATE, 2, RATE)


@given(st.integers(0, 20), st.integers(1, 30), st.integers(1, 20))
def test_a_part_has_its_samples_or_is_refused(begin, count, n_samples):
    """Here a sample takes a second, so that nothing is rounded and nothing reaches 10 ms beyond the end."""
    if begin + count <= n_samples:
        assert part_of(begin, count, n_samples, 1) == (begin, begin + count)
        return
    with pytest.raises(ValueError, match="is not in the file"):
        part_of(begin, count, n_samples, 1)


def test_a_part_may_end_a_little_after_its_file(tmp_path):
    path = tmp_path / "sound.flac"
    path.write_bytes(encoded(tone()))

    assert len(read_part(path, 0.5, 0.51)[0]) == RATE // 2
    with pytest.raises(ValueError, match=r"0\.5 to 1\.02 s is not in the file, which has 1 s"):
        read_part(path, 0.5, 0.52)
    with pytest.raises(ValueError, match="is not in the file"):
        read_part(path, -0.1, 0.5)


def test_a_file_that_is_no_sound_or_not_there_has_no_part(tmp_path):
    (tmp_path / "text").write_text("this is no sound")

    for read in (lambda name: read_part(tmp_path / name, 0, 1), lambda name: file_length(tmp_path / name)):
        with pytest.raises(ValueError, match="not a sound that can be decoded"):
            read("text")
        with pytest.raises(ValueError, match="there is no such file"):
            read("gone")
