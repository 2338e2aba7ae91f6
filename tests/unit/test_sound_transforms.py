"""distdl/speech/transforms.py and normalise.py: chains of a config, and cepstral mean and variance normalisation."""

import json

import pytest
import torch

from distdl.errors import UserError
from distdl.speech.normalise import Cmvn, Statistics
from distdl.speech.sounds import Sounds
from distdl.speech.transforms import build


def features(*lengths, n=4, seed=0):
    values = 3 + 2 * torch.randn(len(lengths), max(lengths), n, generator=torch.Generator().manual_seed(seed))
    own = torch.tensor(lengths)
    values *= (torch.arange(max(lengths)) < own[:, None])[:, :, None]
    return Sounds(values=values, lengths_B=own, keys_B=torch.zeros(len(lengths), dtype=torch.int64), rate_hz=16000)


def test_a_chain_goes_from_waveforms_to_features_and_tells_their_lengths():
    chain = build([{"log_mel": {"bins": 40}}, {"cmvn": {}}], "data.train")
    sounds = Sounds(
        values=1000 * torch.randn(2, 16000),
        lengths_B=torch.tensor([16000, 4000]),
        keys_B=torch.zeros(2, dtype=torch.int64),
        rate_hz=16000,
    )

    made = chain(sounds)

    assert made.values.shape == (2, 98, 40)
    assert made.lengths_B.tolist() == chain.output_lengths(torch.tensor([16000, 4000]), 16000).tolist() == [98, 23]


@pytest.mark.parametrize(
    ("configs", "message", "place"),
    [
        ([{"flip": {}}, {"log_mel": {}}], "'flip' is of images", "[0]"),
        ([{"cmvn": {}}, {"log_mel": {}}], "'cmvn' takes features", "[0]"),
        ([{"log_mel": {}}, {"mfcc": {}}], "'mfcc' takes waveforms", "[1]"),
        ([], "gives? waveforms", ""),
        ([{"log_mel": {"bins": 40, "hight_hz": 1}}], "no argument 'hight_hz'", "[0]"),
        ([{"log_mel": {}}, {"cmvn": "sentence"}], "over is utterance or corpus", "[1]"),
    ],
)
def test_a_chain_that_does_not_fit_is_refused_with_its_place(configs, message, place):
    with pytest.raises(UserError, match=message) as caught:
        build(configs, "data.train")

    assert caught.value.where == f"data.train.transforms{place}"


def test_each_utterance_is_normalised_by_itself_and_padding_stays_zero():
    made = Cmvn()(features(30, 7))

    for row, n in enumerate((30, 7)):
        own = made.values[row, :n]
        torch.testing.assert_close(own.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
        torch.testing.assert_close(own.std(0, unbiased=False), torch.ones(4))
        assert made.values[row, n:].abs().sum() == 0


def test_only_means_are_taken_off_if_so_asked():
    sounds = features(20)

    made = Cmvn(variance=False)(sounds)

    torch.testing.assert_close(made.values[0].std(0), sounds.values[0].std(0))


def test_silence_has_no_deviation_and_no_nan():
    silent = Sounds(
        values=torch.full((1, 9, 3), -15.9), lengths_B=torch.tensor([9]), keys_B=torch.zeros(1), rate_hz=16000
    )

    assert Cmvn()(silent).values.abs().max() < 1


def test_statistics_of_a_corpus_are_those_of_all_frames(tmp_path):
    parts, statistics = [features(30, 7), features(12, 50, 3, seed=1)], Statistics()
    for each in parts:
        statistics.add(each.values, each.lengths_B)
    file = tmp_path / "cmvn.json"
    file.write_text(statistics.as_json())

    found = json.loads(file.read_text())
    every = torch.cat([each.values[row, :n] for each in parts for row, n in enumerate(each.lengths_B)])
    made = Cmvn("corpus", file=str(file))(parts[0])

    assert found["count"] == 102
    assert found["mean"] == pytest.approx(every.mean(0).tolist(), rel=1e-5)
    expected = (parts[0].values[1, :7] - every.mean(0)) / every.std(0, unbiased=False)
    torch.testing.assert_close(made.values[1, :7], expected, rtol=1e-4, atol=1e-4)
    assert made.values[1, 7:].abs().sum() == 0


def test_statistics_that_do_not_fit_or_are_not_there(tmp_path):
    (tmp_path / "broken.json").write_text("{}")

    with pytest.raises(UserError, match="No such file"):
        Cmvn("corpus", file=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="holds no mean"):
        Cmvn("corpus", file=str(tmp_path / "broken.json"))
    with pytest.raises(UserError, match="of 2 features, these are 4"):
        Cmvn("corpus", mean=[1.0, 2.0], deviation=[1.0, 1.0])(features(3))
