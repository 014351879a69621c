"""Repairs broken text: wrong decodings, control characters, terminal escapes, lone surrogates."""

from __future__ import annotations

import re
from typing import Any, Literal

from ftfy import TextFixerConfig, fix_text

from finetune_core.data.formats import Message
from finetune_core.data.rules.content import map_leaves, rewrite
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
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def unicode(action: Literal["flag", "change"]) -> Rule:
    """Makes the rule."""

    def check(number: int, messages: list[Message]) -> Verdict | None:
        repaired = rewrite(messages, repair)
        count = sum(before != after for before, after in zip(messages, repaired, strict=True))
        if not count:
            return None
        detail = f"broken text in {count} message{'s' if count > 1 else ''}"
        if action == "flag":
            return Verdict("flag", detail)
        return Verdict("change", f"{detail} repaired", repaired)

    return check


def repair(text: str) -> str:
    """The text with what is broken repaired."""
    if text.isascii() and not CONTROL.search(text):
        return text  # as most text is; ftfy would find nothing, but slowly
    return fix_text(text, REPAIRS)


def repair_row(row: Any) -> Any:
    """A copy of a row with all of its text repaired."""
    return map_leaves(row, lambda leaf: repair(leaf) if isinstance(leaf, str) else leaf)
