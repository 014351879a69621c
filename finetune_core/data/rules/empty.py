"""Drops rows that have nothing to learn from."""

from __future__ import annotations

from collections.abc import Callable

from finetune_core.data.formats import Message


def empty() -> Callable[[int, list[Message]], str | None]:
    """Makes the rule: a row needs a turn to answer, and an answer in every trained turn."""

    def check(number: int, messages: list[Message]) -> str | None:
        if not any(message["trained"] for message in messages):
            return "no turn of an assistant to learn from"
        for message in messages:
            if message["trained"] and not message["content"].strip():
                return "the answer is empty"
        if not any(m["role"] == "user" and m["content"].strip() for m in messages):
            return "the prompt is empty"
        return None

    return check
