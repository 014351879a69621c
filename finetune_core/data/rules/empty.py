"""Finds rows that have nothing to learn from."""

from __future__ import annotations

from finetune_core.data.formats import TEXT, Conversation
from finetune_core.data.rules.verdict import Found, Rule, Verdict


def empty(action: Found) -> Rule:
    """Makes the rule: a row needs a turn to answer, and an answer in every trained turn."""

    def check(conversation: Conversation) -> Verdict | None:
        reason = _reason(conversation)
        return Verdict(action, reason) if reason else None

    return check


def _reason(conversation: Conversation) -> str | None:
    messages, _, rejected = conversation
    trained = [message for message in messages if message["trained"]]
    if not trained:
        return "no turn of an assistant to learn from"
    if not all(message["content"].strip() or message["tool_calls"] for message in trained):
        return "the text is empty" if messages[0]["role"] == TEXT else "the answer is empty"
    if messages[0]["role"] != TEXT and not any(
        message["role"] == "user" and message["content"].strip() for message in messages
    ):
        return "the prompt is empty"
    if rejected and messages[-len(rejected) :] == rejected:
        return "the chosen answer is the rejected one"
    if rejected and not any(m["content"].strip() or m["tool_calls"] for m in rejected):
        return "the rejected answer is empty"
    return None
