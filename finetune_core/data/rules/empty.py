"""Finds rows that have nothing to learn from."""

from __future__ import annotations

from finetune_core.data.formats import Message
from finetune_core.data.rules.verdict import Found, Rule, Verdict


def empty(action: Found) -> Rule:
    """Makes the rule: a row needs a turn to answer, and an answer in every trained turn."""

    def check(number: int, messages: list[Message]) -> Verdict | None:
        reason = _reason(messages)
        return Verdict(action, reason) if reason else None

    return check


def _reason(messages: list[Message]) -> str | None:
    if not any(message["trained"] for message in messages):
        return "no turn of an assistant to learn from"
    for message in messages:
        answered = message["content"].strip() or message["tool_calls"]
        if message["trained"] and not answered:
            return "the answer is empty"
    if not any(m["role"] == "user" and m["content"].strip() for m in messages):
        return "the prompt is empty"
    return None
