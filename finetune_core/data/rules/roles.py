"""Finds turns out of order, which most chat templates refuse or write as nobody meant."""

from __future__ import annotations

from finetune_core.data.formats import Conversation, Message
from finetune_core.data.rules.verdict import Found, Rule, Verdict


def roles(action: Found) -> Rule:
    """Makes the rule."""

    def check(conversation: Conversation) -> Verdict | None:
        reason = _reason(conversation.messages)
        return Verdict(action, reason) if reason else None

    return check


def _reason(messages: list[Message]) -> str | None:
    before: Message | None = None
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        last, calls = (before["role"], before["tool_calls"]) if before else (None, None)
        if role == "system" and number > 1:
            return f"message {number} is a system turn, which only the first may be"
        if role == "assistant" and last in (None, "system"):
            return f"message {number} answers, but nothing is asked"
        if role in ("user", "assistant") and role == last and not calls:
            return f"messages {number - 1} and {number} are both of the {role}"
        if role == "tool" and last != "tool" and not calls:
            return f"message {number} is a tool's, but none was called"
        before = message
    return None
