"""Which part of a rendered conversation is trained, told from the template's own renderings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from finetune_core.data.formats import Message
from finetune_core.data.templates import Renderer
from finetune_core.exceptions import TemplateError

IGNORED = -100  # the label that the loss passes over
MARK = "\ue000end\ue001"  # of private-use characters, which no text has and no template strips
PLAIN = "Set tokenization.template to plain."
LAST_ONLY = f"Give all answers but a conversation's last one weight 0. Failing that: {PLAIN}"


class Span(NamedTuple):
    """A range of characters, the end excluded."""

    start: int
    end: int


class MaskedText(NamedTuple):
    """A whole conversation as text, and the spans of it that are trained."""

    text: str
    spans: list[Span]


def mask(messages: Sequence[Message], renderer: Renderer) -> MaskedText:
    """Renders messages and finds the trained spans.

    A trained turn's span begins where the text up to it, with the generation prompt, ends:
    there the model takes over at inference. It ends with the end token that stops generation;
    what the template puts behind that token is not trained. Where a template strips blanks
    around answers, or adds marks of its own (an empty block of reasoning, a channel), the span
    holds the answer as the template writes it.

    Args:
        messages: The turns, each with its `trained` flag.
        renderer: Writes them as text.

    Raises:
        TemplateError: The template leaves out or alters an answer, begins it otherwise than its
            generation prompt does, does not end it, or writes it otherwise once more turns
            follow, so that the span cannot be told.
    """
    text = renderer.render(messages)
    trained = [number for number, message in enumerate(messages) if message["trained"]]
    return MaskedText(text, [_span(text, messages, number, renderer) for number in trained])


def _span(text: str, messages: Sequence[Message], number: int, renderer: Renderer) -> Span:
    """The span of one turn, proven by rendering its answer once more with a mark in it."""
    if number == 0:
        raise TemplateError("message 1 is an answer to be trained, but nothing is asked")
    name, message = f"the answer of message {number + 1}", messages[number]
    answer = message["content"].strip()
    if message["tool_calls"] and answer:  # some templates write the calls and drop the text
        _cut(renderer.render([*messages[:number], _mark_text(message)]), name)
    mark = _mark_call if message["tool_calls"] else _mark_text
    marked = [*messages[:number], mark(message), *messages[number + 1 :]]
    is_last = number == len(messages) - 1
    before = renderer.render(messages[:number], generation_prompt=True)
    head, tail = last_head, last_tail = _cut(renderer.render(marked[: number + 1]), name)
    if not is_last:
        head, tail = _cut(renderer.render(marked), name)

    # The mark is all that the two texts may differ in, besides blanks that are stripped.
    mark_at = len(text) - len(tail)
    unmarked = text.endswith(tail) and text[:mark_at].rstrip() == head.rstrip()
    found = answer in head if message["tool_calls"] else head.rstrip().endswith(answer)
    if not (unmarked and found):
        hint = PLAIN if is_last else LAST_ONLY
        raise TemplateError(f"the chat template alters {name}", hint=hint)
    if not last_head.startswith(before):
        raise TemplateError(
            f"the chat template begins {name} otherwise than its generation prompt, which ends "
            f"with {before[-20:]!r}, so the model would never be asked for what it learns",
            hint=PLAIN,
        )
    length = last_tail.find(renderer.end) + len(renderer.end)
    if renderer.end not in last_tail:
        raise TemplateError(
            f"the chat template does not end {name} with the tokenizer's end token "
            f"{renderer.end!r}, but with {last_tail[:20]!r}",
            hint=f"Make what ends the template's answers its eos_token. Failing that: {PLAIN}",
        )
    if renderer.end in message["content"] + (message["tool_calls"] or ""):
        raise TemplateError(
            f"{name} has the end token {renderer.end!r} in it, which the template adds",
            hint="Take it out of the answer.",
        )
    # With turns behind it, an answer may lose what the last one has before it, as old reasoning
    # is dropped; nothing else may come between prompt and answer, or between answer and end.
    kept = head.startswith(before) and last_head.endswith(head[len(before) :])
    if not kept or tail[:length] != last_tail[:length]:
        raise TemplateError(
            f"the chat template rewrites {name}, or what comes before it, once more turns "
            "follow, so the model would learn what it is never asked for",
            hint=LAST_ONLY,
        )
    return Span(len(before), mark_at + length)


def _mark_text(message: Message) -> Message:
    return {**message, "content": message["content"] + MARK}


def _mark_call(message: Message) -> Message:
    """Marks the last call's name, so that a template is found out which drops the calls."""
    calls = json.loads(message["tool_calls"] or "")
    calls[-1].get("function", calls[-1])["name"] += MARK
    return {**message, "tool_calls": json.dumps(calls)}


def _cut(text: str, name: str) -> tuple[str, str]:
    """The text on both sides of the mark."""
    head, mark, tail = text.partition(MARK)
    if not mark or MARK in tail:
        problem = "repeats" if mark else "leaves out"
        raise TemplateError(f"the chat template {problem} {name}", hint=PLAIN)
    return head, tail
