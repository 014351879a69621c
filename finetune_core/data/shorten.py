"""Makes conversations that are too long fit, without cutting an answer."""

from __future__ import annotations

from collections.abc import Callable

from finetune_core.data.formats import Conversation, Message

MOST_TRIES = 20


def shortened(
    conversation: Conversation, length: Callable[[Conversation], int], limit: int, left: bool
) -> Conversation | None:
    """Cuts the prompt, its longest turn first; system turns and answers are left alone.

    Args:
        conversation: What is too long.
        length: The tokens that a conversation has.
        limit: The tokens that it may have.
        left: Whether a turn is cut at its beginning, else at its end.

    Returns:
        What fits, or nothing where too little would be left of the prompt.
    """
    tokens = length(conversation)
    for _ in range(MOST_TRIES):
        messages = list(conversation.messages)
        if tokens <= limit:
            asked = any(each["role"] == "user" and each["content"] for each in messages)
            return conversation if asked else None
        place = max(
            (place for place, message in enumerate(messages) if _may_be_cut(message)),
            key=lambda place: len(messages[place]["content"]),
            default=None,
        )
        if place is None:
            return None
        content = messages[place]["content"]
        characters = sum(len(message["content"]) for message in messages)
        over = (tokens - limit) * max(1, characters // tokens)
        kept = content[over:] if left else content[: max(0, len(content) - over)]
        messages[place] = {**messages[place], "content": kept if kept.strip() else ""}
        conversation = conversation._replace(messages=messages)
        tokens = length(conversation)
    return None


def split(conversation: Conversation, fits: Callable[[Conversation], bool]) -> list[Conversation]:
    """Splits a conversation between its exchanges into several, each with the system turn.

    Args:
        conversation: What is too long.
        fits: Whether a conversation is short enough, and has something to learn.

    Returns:
        The parts, in order. An exchange that does not fit by itself is left out.
    """
    head = [message for message in conversation.messages[:1] if message["role"] == "system"]
    exchanges: list[list[Message]] = []
    for message in conversation.messages[len(head) :]:
        if message["role"] == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)
    parts: list[Conversation] = []
    held: list[Message] = []
    for exchange in exchanges:
        longer = conversation._replace(messages=[*head, *held, *exchange])
        if held and fits(longer):
            parts[-1], held = longer, [*held, *exchange]
            continue
        alone = conversation._replace(messages=[*head, *exchange])
        if fits(alone):
            parts.append(alone)
            held = exchange
        else:
            held = []
    return parts


def _may_be_cut(message: Message) -> bool:
    cut = not message["trained"] and message["role"] in ("user", "tool")
    return cut and bool(message["content"])
