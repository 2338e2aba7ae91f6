"""Language models read by kenlm where it is installed (Heafield 2011): large ones, and its binary files.

The scores are the same as those of `read_arpa`; a file of some GB is mapped into memory rather than read.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from distdl.errors import UserError
from distdl.speech.decoding.arpa import arpa_words, read_arpa
from distdl.speech.decoding.ngram import END, LanguageModel


class KenlmModel:
    """Raises UserError for a file that kenlm can't read, ImportError where there is no kenlm."""

    def __init__(self, path: str | Path) -> None:
        import kenlm

        if not Path(path).is_file():
            raise UserError("there is no such file", where=str(path), fix="Name a language model: .arpa or .bin.")
        try:
            self._model = kenlm.Model(str(path), _quiet(kenlm))
        except (OSError, RuntimeError) as error:
            what = str(error).splitlines()[0]
            raise UserError(f"kenlm can't read it: {what}", where=str(path), fix="`distdl lm` makes one.") from None
        self._make_state, self._path = kenlm.State, Path(path)
        self.order: int = self._model.order

    def __contains__(self, word: str) -> bool:
        return word in self._model

    @property
    def words(self) -> list[str] | None:
        """Read from the ARPA file; kenlm's own files keep no list of them."""
        return arpa_words(self._path) if ".arpa" in self._path.suffixes else None

    def unigram(self, word: str) -> float:
        state = self._make_state()
        self._model.NullContextWrite(state)
        return float(self._model.BaseScore(state, word, self._make_state()))

    def start(self) -> Hashable:
        state: Hashable = self._make_state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str) -> tuple[float, Hashable]:
        after: Hashable = self._make_state()
        return self._model.BaseScore(state, word, after), after

    def end(self, state: Any) -> float:
        return float(self._model.BaseScore(state, END, self._make_state()))


def _quiet(kenlm: Any) -> Any:
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    return config


def open_language_model(path: str | Path) -> LanguageModel:
    """A file .arpa, .arpa.gz, or kenlm's own. Without kenlm, ARPA files are read by distdl. Raises UserError."""
    try:
        return KenlmModel(path)
    except UserError:
        if ".arpa" in Path(path).suffixes:
            return read_arpa(path)  # a model of unigrams, which kenlm has none of; or an error that names the line
        raise
    except ImportError:
        if ".arpa" in Path(path).suffixes:
            return read_arpa(path)
        what = "files other than .arpa and .arpa.gz need the package kenlm"
        raise UserError(what, where=str(path), fix="pip install kenlm, or name the ARPA file.") from None
