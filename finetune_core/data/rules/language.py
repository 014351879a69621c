"""Finds rows in a language that is not wanted."""

from __future__ import annotations

from collections.abc import Collection

from finetune_core.data.formats import Conversation
from finetune_core.data.rules.verdict import Found, Rule, Verdict

FEWEST_LETTERS = 40  # of which a language can be told with some certainty


def language(action: Found, languages: Collection[str]) -> Rule:
    """Makes the rule. Of short texts it says nothing.

    Args:
        action: What becomes of a row.
        languages: The wanted ones, as ISO 639-1 writes them.
    """
    from py3langid import classify  # its model takes a while to load

    def check(conversation: Conversation) -> Verdict | None:
        text = "\n".join(message["content"] for message in conversation.messages)
        if sum(map(str.isalpha, text)) < FEWEST_LETTERS:
            return None
        found, _ = classify(text)
        return None if found in languages else Verdict(action, f"the language is {found}")

    return check
