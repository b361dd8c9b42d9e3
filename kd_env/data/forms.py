"""The form in which texts are compared: what is read alike is one text, however its characters are stored."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile(
    # Control characters that are no spaces, and the Default_Ignorable_Code_Point of Unicode: soft hyphens, joiners,
    # spaces of no width, marks of direction, variation selectors, fillers.
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def normalize(text: str) -> str:
    """The form in which rows are compared: lower case, single spaces, compatible characters, nothing invisible.

    This is Unicode's NFKC_Casefold, made for the question whether two names are the same: composed and decomposed
    accents, full and half width, ligatures and the capital sharp s are alike in it. Accents themselves stay.
    """
    if text.isascii() and text.isprintable():
        return case_and_spaces(text)
    shown = visible(case_and_spaces(text))
    if shown.isascii():
        return " ".join(shown.split())
    folded = unicodedata.normalize("NFKC", shown).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def visible(text: str) -> str:
    """The text without the characters that nobody sees."""
    return _INVISIBLE.sub("", text)


def case_and_spaces(text: str) -> str:
    """Lower case with single spaces: the form in which earlier versions compared rows."""
    return " ".join(text.lower().split())
