"""How the transcripts of a corpus are normalised when it is packed: letter case, punctuation, and the letters allowed.

Whoever recognises speech compares texts by their words, so "Thank you." and "thank you" have to be one text. The rules
are written into the corpus's dataset.json, and the text as it was into each sample's json.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from distdl.errors import UserError

Case = Literal["keep", "lower", "upper"]
CASES = ("keep", "lower", "upper")
_APOSTROPHES = "'’ʼ"
_DASHES = "-‐‑‒–—―"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    case: Case = "keep"
    strip_punctuation: bool = False  # but for apostrophes inside of words; a dash becomes a space
    characters: str | None = None  # all that a normalised transcript may hold; None: whatever there is

    def __post_init__(self) -> None:
        if self.case not in CASES:
            raise UserError(f"'{self.case}' is none of {', '.join(CASES)}", where="command line --case")
        if self.characters is not None and not self.characters.strip():
            raise UserError("this allows no letter", where="command line --characters")

    def __call__(self, text: str) -> str:
        """In Unicode's composed form (NFC), and with single spaces. Raises ValueError, naming what is wrong, for text
        of which nothing is left and for a character that is not allowed."""
        text = unicodedata.normalize("NFC", text)
        if self.strip_punctuation:
            text = _without_punctuation(text)
        if self.case != "keep":
            text = text.lower() if self.case == "lower" else text.upper()
        text = " ".join(text.split())
        if not text:
            raise ValueError("its transcript is empty")
        if self.characters is not None and (others := sorted(set(text) - set(self.characters) - {" "})):
            raise ValueError(f"its transcript has characters that are not allowed: {' '.join(others)}")
        return text

    @property
    def recorded(self) -> dict[str, Any]:
        """For dataset.json."""
        return {"case": self.case, "strip_punctuation": self.strip_punctuation, "characters": self.characters}


def _without_punctuation(text: str) -> str:
    """Unicode's categories P* (punctuation) and S* (symbols) go; `don't` keeps its apostrophe, `well-known` is two."""
    kept = []
    for i, character in enumerate(text):
        if character in _APOSTROPHES:
            inside = 0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum()
            kept.append("'" if inside else "")
        elif character in _DASHES:
            kept.append(" ")
        elif unicodedata.category(character)[0] not in "PS":
            kept.append(character)
    return "".join(kept)
