"""How quickly beam search turns the output of a CTC network into text, beside pyctcdecode with kenlm.

    pip install pyctcdecode kenlm
    OMP_NUM_THREADS=1 python benchmarks/speech/decoding.py [--sounds 40] [--rounds 5] [--out FILE.json]

The texts are sentences of distdl's own documentation; a trigram model is learned from the others. What a network would
say of a sentence is made up: about three frames to a letter, in one of them the letter, in the others the blank, with
normal noise on the logits, so that the best path alone has a tenth of the letters wrong or so. Both decoders have the
same beam, thresholds, weights and language model (alpha 0.5, beta 1.5, -10 for an unknown word). Both give the best
text and the frames of its words. The search over a lexicon has the model's words only. Each round gives all of them a
turn, in an order that changes; told are the medians over the rounds of sounds per second of CPU time, the error rates,
and of the texts that differ how many have a higher score, by the sum that both search for, than the peer's.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyctcdecode
import torch
from torch.nn.functional import ctc_loss

from distdl.bench.ratio import ratio
from distdl.speech.decoding.arpa import read_arpa, write_arpa
from distdl.speech.decoding.best_paths import best_paths
from distdl.speech.decoding.kenlm_model import KenlmModel
from distdl.speech.decoding.kneser_ney import train_language_model
from distdl.speech.decoding.lexicon import spelled
from distdl.speech.decoding.lexicon_search import LexiconSearch
from distdl.speech.decoding.ngram import NGram
from distdl.speech.decoding.prefix_beam import PrefixBeam
from distdl.speech.decoding.scores import LN_10
from distdl.speech.edit_distance import character_errors, of_many, word_errors
from distdl.speech.text import Characters

LETTERS = Characters("abcdefghijklmnopqrstuvwxyz' ", case="lower", unknown="drop")
WEIGHTS = {"alpha": 0.5, "beta": 1.5}
UNKNOWN_WORD, TOKEN_THRESHOLD, BEAM_THRESHOLD = -10.0, -5.0, -10.0
Decode = Callable[[np.ndarray], str]


def sentences(folder: Path) -> list[str]:
    """Of 5 to 25 words, each once, in an order drawn by chance."""
    prose = " ".join(path.read_text() for path in sorted(folder.glob("*.md")))
    prose = re.sub(r"```.*?```|`[^`]*`|\|[^\n]*", " ", prose, flags=re.DOTALL)
    found = sorted({LETTERS.normal(each) for each in re.split(r"[.:;!?\n]\s", prose)})
    chosen = [each for each in found if 5 <= len(each.split()) <= 25 and max(map(len, each.split())) <= 20]
    return random.Random(0).sample(chosen, len(chosen))


def made_up_output(text: str, draw: np.random.Generator, noise: float) -> np.ndarray:
    """log-probabilities (frames, classes), float32."""
    path: list[int] = []
    for unit in LETTERS.encode(text):
        before = draw.integers(1, 4)
        path += [0] * int(before) + [unit]
    logits = draw.normal(scale=noise, size=(len(path), len(LETTERS)))
    logits[np.arange(len(path)), path] += 7
    logits[:, 0] += 1
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def contenders(model: Path, words: list[str], beams: list[int]) -> dict[str, Decode]:
    found: dict[str, Decode] = {}
    thresholds = {"token_threshold": TOKEN_THRESHOLD, "beam_threshold": -BEAM_THRESHOLD}
    peer_thresholds = {"token_min_logp": TOKEN_THRESHOLD, "beam_prune_logp": BEAM_THRESHOLD}
    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        peer = pyctcdecode.build_ctcdecoder(
            LETTERS.units, str(model), unigrams=words, unk_score_offset=UNKNOWN_WORD, **WEIGHTS
        )
        peer_alone = pyctcdecode.build_ctcdecoder(LETTERS.units)
    for beam in beams:
        settings = {"beam": beam, **WEIGHTS, **thresholds}
        alone = PrefixBeam(LETTERS, **settings)
        for name, lm in (("kenlm", KenlmModel(model)), ("distdl's model", read_arpa(model))):
            decoder = PrefixBeam(LETTERS, lm=lm, unknown_word=UNKNOWN_WORD, **settings)
            found[f"distdl, {name}, beam {beam}"] = lambda logs, decoder=decoder: decoder(logs)[0].text
        found[f"distdl, no model, beam {beam}"] = lambda logs, decoder=alone: decoder(logs)[0].text
        for name, decoder in (("kenlm", peer), ("no model", peer_alone)):
            found[f"pyctcdecode, {name}, beam {beam}"] = lambda logs, decoder=decoder, beam=beam: decoder.decode_beams(
                logs, beam_width=beam, **peer_thresholds
            )[0][0]
    return found


def measure(
    decoders: dict[str, Decode], outputs: list[np.ndarray], n_rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Seconds of CPU time for all outputs by round, and the texts."""
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    texts: dict[str, list[str]] = {}
    draw = random.Random(0)
    for number in range(n_rounds + 1):
        for name in draw.sample(list(decoders), len(decoders)):
            began = time.process_time()
            texts[name] = [decoders[name](each) for each in outputs]
            if number:  # the first round warms up
                taken[name].append(time.process_time() - began)
    return taken, texts


def total(text: str, logs: np.ndarray, model: NGram | None) -> float:
    """What both search for the highest of: ln p of all paths that spell the text, and the language model's share."""
    words, units = text.split(), LETTERS.encode(text)
    lengths = torch.tensor([len(logs)]), torch.tensor([len(units)])
    heard = -float(ctc_loss(torch.from_numpy(logs)[:, None], torch.tensor([units]), *lengths, reduction="sum"))
    if model is None:
        return heard
    unknown = sum(word not in model for word in words)
    return (
        heard + WEIGHTS["alpha"] * LN_10 * model.sentence(words) + WEIGHTS["beta"] * len(words) + UNKNOWN_WORD * unknown
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beams", type=int, nargs="+", default=[32, 100])
    parser.add_argument("--noise", type=float, default=1.8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "speech" / "decoding.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = sentences(Path(__file__).parents[2] / "docs")
    spoken, read = every[: arguments.sounds], every[arguments.sounds :]
    draw = np.random.default_rng(0)
    outputs = [made_up_output(text, draw, arguments.noise) for text in spoken]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.arpa"
        learned = train_language_model(read, order=3)
        write_arpa(learned, model)
        words = sorted({word for text in read for word in text.split()})
        decoders = contenders(model, words, arguments.beams)
        search = LexiconSearch(LETTERS, spelled(words, LETTERS), lm=read_arpa(model), **WEIGHTS)
        decoders["distdl, lexicon search, beam 100"] = lambda logs: search(logs)[0].text
        decoders["distdl, best path"] = lambda logs: LETTERS.decode(
            best_paths(torch.from_numpy(logs)[None], torch.tensor([len(logs)]))[0].units
        )
        taken, texts = measure(decoders, outputs, arguments.rounds)
    rows = []
    print("| decoder | sounds/s | of pyctcdecode | CER % | WER % | texts same / of a higher score / of a lower |")
    print("|---" * 6 + "|")
    for name, times in taken.items():
        word = of_many([word_errors(*each) for each in zip(spoken, texts[name], strict=True)]).rate
        character = of_many([character_errors(*each) for each in zip(spoken, texts[name], strict=True)]).rate
        row = {"decoder": name, "sounds_per_s": len(outputs) / statistics.median(times), "cer": character, "wer": word}
        peer = re.sub("^distdl", "pyctcdecode", name).replace("distdl's model", "kenlm")
        if peer in taken:
            row["of_pyctcdecode"] = ratio(taken[peer], times)._asdict()
            both = [each for each in zip(texts[name], texts[peer], outputs, strict=True) if each[0] != each[1]]
            lm = None if "no model" in name else learned
            better = sum(total(own, logs, lm) > total(other, logs, lm) for own, other, logs in both)
            row |= {"same_texts": len(outputs) - len(both), "better_texts": better, "worse_texts": len(both) - better}
        rows.append(row)
        of_peer, same = (
            row.get("of_pyctcdecode", {"median": float("nan")})["median"],
            [row.get(f"{which}_texts", "") for which in ("same", "better", "worse")],
        )
        wrong = f"{100 * character:.2f} | {100 * word:.2f}"
        print(f"| {name} | {row['sounds_per_s']:.1f} | {of_peer:.2f} | {wrong} | {' / '.join(map(str, same))} |")
    settings = {"sounds": len(outputs), "frames": sum(map(len, outputs)), "rounds": arguments.rounds}
    settings |= {"noise": arguments.noise, "unknown_word": UNKNOWN_WORD, "token_threshold": TOKEN_THRESHOLD}
    settings |= {"beam_threshold": BEAM_THRESHOLD, **WEIGHTS, "words_of_model": len(words)}
    versions = {name: importlib.metadata.version(name) for name in ("pyctcdecode", "kenlm", "numpy", "torch")}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**settings, "versions": versions, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
