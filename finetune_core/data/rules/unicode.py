"""Repairs broken text: wrong decodings, control characters, terminal escapes, lone surrogates."""

from __future__ import annotations

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
BEYOND = bytes(range(0x80, 0x100))
TO_BLANK = bytes.maketrans(SOUND, b" " * len(SOUND))
# By itself, a character beyond ASCII is broken only where it is one of these: control characters,
# half characters, and the four that ftfy finds between letters.
SUSPECT = {
    chr(code).encode(errors="surrogatepass")
    for code in (
        *range(0x80, 0xA0),
        *b"\xc2\xc3",
        *(0x152, 0x153),
        *range(0x206A, 0x2070),
        *range(0xD800, 0xE000),
        0xFEFF,
        *range(0xFFF9, 0xFFFD),
    )
}


def unicode(action: Literal["flag", "change"]) -> Rule:
    """Makes the rule."""

    def check(conversation: Conversation) -> Verdict | None:
        # In JSON, escapes hide letters.
        if all(
            _is_sound(text) and "\\u" not in text and "\\b" not in text
            for text in texts(conversation)
        ):
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
    plain = text.encode(errors="surrogatepass")
    if plain.isascii():
        return not plain.translate(None, SOUND)
    if plain.translate(None, SOUND + BEYOND):
        return False
    # Two characters beyond ASCII side by side may be one that was decoded wrongly.
    runs = set(plain.translate(TO_BLANK).split())
    return not any(run in SUSPECT or len(run) != _length(run[0]) for run in runs)


def _length(byte: int) -> int:
    """The bytes of a character in UTF-8, by the first of them."""
    return 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
