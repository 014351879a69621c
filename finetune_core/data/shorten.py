"""Makes conversations that are too long fit, without cutting an answer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from finetune_core.data.formats import Conversation, Message


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
    order = sorted(
        (place for place, message in enumerate(conversation.messages) if _may_be_cut(message)),
        key=lambda place: -len(conversation.messages[place]["content"]),
    )
    for place in order:
        # The most that fits; characters have unlike numbers of tokens, so it is searched for.
        fits, over = 0, len(conversation.messages[place]["content"])
        while over - fits > 1:
            middle = (fits + over) // 2
            short = length(_cut(conversation, place, middle, left)) <= limit
            fits, over = (middle, over) if short else (fits, middle)
        conversation = _cut(conversation, place, fits, left)
        if length(conversation) <= limit:
            turns = conversation.messages
            asked = any(turn["role"] == "user" and turn["content"].strip() for turn in turns)
            return conversation if asked else None
    return None


def split(
    conversation: Conversation, fits: Callable[[Conversation], bool]
) -> tuple[list[Conversation], int]:
    """Splits a conversation between its exchanges into several, each with the system turn.

    Exchanges that teach nothing stay with the next one that does, as far as they fit.

    Args:
        conversation: What is too long.
        fits: Whether a conversation is short enough.

    Returns:
        The parts, in order, and how many exchanges with an answer to be learned fit into none.
    """
    head = [message for message in conversation.messages[:1] if message["role"] == "system"]
    exchanges: list[list[Message]] = []
    for message in conversation.messages[len(head) :]:
        if message["role"] == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)

    def joined(*parts: list[Message]) -> Conversation:
        return conversation._replace(messages=[*head, *chain.from_iterable(parts)])

    parts: list[Conversation] = []
    last: list[list[Message]] = []  # the exchanges of the last part, while more may be added
    context: list[list[Message]] = []
    left_out = 0
    for exchange in exchanges:
        if not any(message["trained"] for message in exchange):
            context.append(exchange)
            continue
        if last and fits(joined(*last, *context, exchange)):
            last = [*last, *context, exchange]
            parts[-1] = joined(*last)
        else:
            while context and not fits(joined(*context, exchange)):
                context = context[1:]
            last = [*context, exchange] if fits(joined(*context, exchange)) else []
            parts += [joined(*last)] if last else []
            left_out += not last
        context = []
    return parts, left_out


def _cut(conversation: Conversation, place: int, kept: int, left: bool) -> Conversation:
    """The conversation with so many characters kept of one of its turns."""
    messages = list(conversation.messages)
    content = messages[place]["content"]
    part = content[len(content) - kept :] if left else content[:kept]
    messages[place] = Message(**{**messages[place], "content": part})
    return conversation._replace(messages=messages)


def _may_be_cut(message: Message) -> bool:
    cut = not message["trained"] and message["role"] in ("user", "tool")
    return cut and bool(message["content"])
