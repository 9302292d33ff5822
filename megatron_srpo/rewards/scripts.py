"""Writing systems, and the languages that the language judge knows in each."""

from __future__ import annotations

from typing import NamedTuple


class Script(NamedTuple):
    """One writing system."""

    ranges: str
    """Its letters, as the inside of a regular expression's `[...]`."""
    languages: tuple[str, ...]
    """ISO 639 codes; where there is one, the script alone tells the language."""
    weight: int = 1
    """How many Latin letters one of its characters counts as."""


# A restricted set is far more robust than all languages of the classifier: with 139, a sentence of English
# full of names and terms finds some small language that it resembles by chance.  These are the languages
# that language models write reasoning in; close relatives have one code, see SAME.  A Chinese, Japanese or
# Korean character says at least as much as two letters do.
SCRIPTS = {
    "latin": Script(
        r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\u0300-\u036f",
        (
            *("en", "de", "nl", "sv", "no", "fr", "es", "it", "pt", "ro"),
            *("pl", "cs", "hr", "fi", "hu", "tr", "vi", "id"),
        ),
    ),
    "cjk": Script(
        r"\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
        r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff",
        ("zh", "ja"),
        2,
    ),
    "hangul": Script(r"\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3", ("ko",), 2),
    "cyrillic": Script(r"\u0400-\u052f", ("ru", "uk", "bg")),
    "arabic": Script(
        r"\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc",
        ("ar", "fa", "ur"),
    ),
    "devanagari": Script(r"\u0900-\u0963\u0970-\u097f", ("hi",)),
    "greek": Script(r"\u0370-\u0373\u0376-\u037d\u0386\u0388-\u03ff\u1f00-\u1fff", ("el",)),
    "hebrew": Script(r"\u05b0-\u05ea", ("he",)),
    "thai": Script(r"\u0e01-\u0e3a\u0e40-\u0e4e", ("th",)),
    "bengali": Script(r"\u0980-\u09e3\u09f0-\u09ff", ("bn",)),
    "gurmukhi": Script(r"\u0a00-\u0a65\u0a70-\u0a7f", ("pa",)),
    "gujarati": Script(r"\u0a80-\u0ae5", ("gu",)),
    "tamil": Script(r"\u0b80-\u0be5", ("ta",)),
    "telugu": Script(r"\u0c00-\u0c65", ("te",)),
    "kannada": Script(r"\u0c80-\u0ce5", ("kn",)),
    "malayalam": Script(r"\u0d00-\u0d65", ("ml",)),
    "sinhala": Script(r"\u0d80-\u0dff", ("si",)),
    "lao": Script(r"\u0e80-\u0ecf\u0edc-\u0eff", ("lo",)),
    "tibetan": Script(r"\u0f40-\u0fbc", ("bo",)),
    "burmese": Script(r"\u1000-\u103f\u1050-\u109f", ("my",)),
    "khmer": Script(r"\u1780-\u17d3", ("km",)),
    "georgian": Script(r"\u10a0-\u10ff", ("ka",)),
    "armenian": Script(r"\u0531-\u0556\u0561-\u0587", ("hy",)),
    "ethiopic": Script(r"\u1200-\u135f", ("am",)),
}

SAME = {"da": "no", "nb": "no", "nn": "no", "sk": "cs", "bs": "hr", "sl": "hr", "ms": "id", "gl": "pt", "ca": "es"}
"""Close relatives and the code that stands for both."""

SCRIPT_OF = {language: name for name, script in SCRIPTS.items() for language in script.languages}
"""The script that a language is written in."""

LANGUAGES = (*SCRIPT_OF, *SAME)
"""Every code that a recipe may expect."""
