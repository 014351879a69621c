"""Repairs broken text: wrong decodings, control characters, terminal escapes, lone surrogates."""

from __future__ import annotations

import re
from typing import Any, Literal

from ftfy import TextFixerConfig, fix_text

from finetune_core.data.formats import Conversation
from finetune_core.data.rules.content import map_leaves, rewrite, texts
from finetune_core.data.rules.verdict import Rule, Verdict

# Only what is broken. ftfy can also tidy what people and programs write on purpose: entities of
# HTML, curly quotes, wide letters, ligatures, line ends.
REPAIRS = TextFixerConfig(
    unescape_html=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    normalization=None,
    explain=False,
)
SOUND = bytes({*b"\t\n\x0c\r", *range(0x20, 0x7F)})  # what ASCII has that is not broken
# Beyond ASCII, what ftfy at least needs to find something: a control character, two other
# characters side by side, or one of the few that it finds between letters.
SUSPECT = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufeff\ufff9-\ufffc\ud800-\udfff"
    "\u00c2\u00c3\u0152\u0153]|[^\x00-\x7f]{2}"
)


def unicode(action: Literal["flag", "change"]) -> Rule:
    """Makes the rule."""

    def check(conversation: Conversation) -> Verdict | None:
        # In JSON, escapes hide letters.
        if all(_is_sound(text) and "\\u" not in text for text in texts(conversation)):
            return None
        repaired = rewrite(conversation, repair)
        count = sum(
            before != after
            for before, after in zip(texts(conversation), texts(repaired), strict=True)
        )
        if not count:
            return None
        detail = f"broken text in {count} place{'s' if count > 1 else ''}"
        if action == "flag":
            return Verdict("flag", detail)
        return Verdict("change", f"{detail} repaired", repaired)

    return check


def repair(text: str) -> str:
    """The text with what is broken repaired."""
    return text if _is_sound(text) else fix_text(text, REPAIRS)


def repair_row(row: Any) -> Any:
    """A copy of a row with all of its text repaired."""
    return map_leaves(row, lambda leaf: repair(leaf) if isinstance(leaf, str) else leaf)


def _is_sound(text: str) -> bool:
    """Whether ftfy would find nothing, as in most text; it is slow to find that out itself."""
    if text.isascii():
        return not text.encode().translate(None, SOUND)
    return not SUSPECT.search(text)
