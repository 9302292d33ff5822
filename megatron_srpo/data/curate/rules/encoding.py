"""Text that was decoded wrongly, and characters that nobody sees."""

from __future__ import annotations

import re

from ftfy import TextFixerConfig, fix_text

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.fields import change_fields
from megatron_srpo.data.curate.rules.latex_names import EATEN
from megatron_srpo.data.curate.rules.rule import Repaired, RuleSettings

# What else ftfy can do changes quotes, ligatures and widths that may be meant.
MOJIBAKE = TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)
# Joiners are part of words in scripts that join letters, and of emoji.
JOINED = (
    "\u0590-\u08ff\u0900-\u0dff\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
    "\ufb50-\ufeff\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
)
INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"
    f"|(?<![{JOINED}])[\u200c\u200d]|[\u200c\u200d](?![{JOINED}])"
)
LINE_SEPARATORS = re.compile("[\u0085\u2028\u2029]")
# The control characters \a, \b, \v and \f may be the first letter of a command, which the rule `latex` gives back.
CONTROLS = re.compile(rf"(?!{EATEN})[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
CONTROLS_OF_CODE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def encoding(draft: Draft, settings: RuleSettings) -> Repaired | None:
    """Repairs text that was decoded wrongly and takes out invisible characters."""
    return change_fields(draft, decoded if draft.domain == "math" else decoded_code, "decoded again")


def decoded(text: str) -> str:
    """A text without mojibake and invisible characters."""
    return _decoded(text, CONTROLS)


def decoded_code(text: str) -> str:
    """The same for a text in which no control character can be a part of LaTeX."""
    return _decoded(text, CONTROLS_OF_CODE)


def _decoded(text: str, controls: re.Pattern[str]) -> str:
    # Taking out one character can complete what another hid.
    for _ in range(8):
        before = text
        if not text.isascii():
            text = INVISIBLE.sub("", text)
            text = fix_text(text, MOJIBAKE)
            text = LINE_SEPARATORS.sub("\n", text)
        text = controls.sub("", text)
        if text == before:
            break
    return text
