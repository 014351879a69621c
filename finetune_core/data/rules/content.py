"""A row's content as rules see it: all of its text to rewrite, and its digests to compare."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from finetune_core.data.formats import TEXT, Conversation, Message

BLANKS = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f"
WIDE_BLANKS = "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
WIDE_BLANKS += "\u2028\u2029\u202f\u205f\u3000"
SPACES = bytes.maketrans(BLANKS, b" " * len(BLANKS))


class Fingerprint(NamedTuple):
    """16 bytes each, equal where rows say the same but for white space and forms of Unicode.

    `asked` is of what comes before the last answer to be learned, where there is any.
    """

    whole: bytes
    asked: bytes | None


def texts(conversation: Conversation) -> Iterator[str]:
    """All of a row's text, calls and tools as the JSON that they are."""
    for message in (*conversation.messages, *conversation.rejected):
        yield message["content"]
        if message["tool_calls"]:
            yield message["tool_calls"]
    if conversation.tools:
        yield conversation.tools


def rewrite(conversation: Conversation, change: Callable[[str], str]) -> Conversation:
    """The row with all of its text changed, that in calls and tools too."""

    def changed(messages: Sequence[Message]) -> list[Message]:
        return [
            Message(
                role=message["role"],
                content=change(message["content"]),
                trained=message["trained"],
                tool_calls=_rewrite_json(message["tool_calls"], change),
            )
            for message in messages
        ]

    return Conversation(
        changed(conversation.messages),
        _rewrite_json(conversation.tools, change),
        changed(conversation.rejected),
    )


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value made of lists and mappings, with everything else in it changed, but for keys."""
    if isinstance(value, dict):
        return {key: map_leaves(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_leaves(each, change) for each in value]
    return change(value)


def fingerprint(conversation: Conversation) -> Fingerprint:
    """The digests by which a row is compared with others."""
    messages = conversation.messages
    trained = [place for place, message in enumerate(messages) if message["trained"]]
    last = trained[-1] if trained and messages[0]["role"] != TEXT else 0
    digest = blake2b((conversation.tools or "").encode(), digest_size=16)
    for message in messages[:last]:
        _update(digest, message)
    asked = digest.digest() if last else None
    for message in messages[last:]:
        _update(digest, message)
    for message in conversation.rejected:
        digest.update(b"\0rejected")
        _update(digest, message)
    return Fingerprint(digest.digest(), asked)


def _update(digest: blake2b, message: Message) -> None:
    content = _plain(message["content"])
    calls = message["tool_calls"] or ""
    head = f"\0{message['role']} {message['trained']} {len(content)} {calls}\0"
    digest.update(head.encode())
    digest.update(content)


def _plain(text: str) -> bytes:
    """The text with white space as single spaces, and in one form of Unicode."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        if any(blank in text for blank in WIDE_BLANKS):
            text = " ".join(text.split())
    plain = text.encode(errors="surrogatepass").translate(SPACES)  # as split, but much faster
    while b"  " in plain:
        plain = plain.replace(b"  ", b" ")
    return plain.strip()


def _rewrite_json(text: str | None, change: Callable[[str], str]) -> str | None:
    # Parsed first: in the text itself, escapes like \n would be taken for letters.
    if text is None:
        return None

    def change_leaf(leaf: Any) -> Any:
        if isinstance(leaf, str):
            return change(leaf)
        if isinstance(leaf, bool) or not isinstance(leaf, int):
            return leaf
        changed = change(str(leaf))  # a card's number may stand there as a number
        return leaf if changed == str(leaf) else changed

    return json.dumps(map_leaves(json.loads(text), change_leaf))
