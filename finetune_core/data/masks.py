"""Which part of a rendered conversation is trained, told by the differences of prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from finetune_core.data.formats import Message
from finetune_core.data.templates import Renderer
from finetune_core.exceptions import TemplateError

IGNORED = -100  # the label that the loss passes over


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
    what the template puts behind that token is not trained.

    Args:
        messages: The turns, each with its `trained` flag.
        renderer: Writes them as text.

    Raises:
        TemplateError: The template rewrites earlier turns, alters answers or does not end
            them, so that the spans cannot be told.
    """
    text = renderer.render(messages)
    spans = []
    for number, message in enumerate(messages):
        if not message["trained"]:
            continue
        if number == 0:
            raise TemplateError("message 1 is an answer to be trained, but nothing is asked")
        before = renderer.render(messages[:number], generation_prompt=True)
        through = renderer.render(messages[: number + 1])
        if not (text.startswith(through) and through.startswith(before)):
            raise TemplateError(
                f"the chat template rewrites what comes before message {number + 1}, so it "
                "cannot be told which tokens are the answer's",
                hint="Set tokenization.template to plain.",
            )
        turn = through[len(before) :]
        content_end = turn.find(message["content"]) + len(message["content"])
        end = turn.find(renderer.end, content_end)
        if message["content"] not in turn or end < 0:
            problem = "alters" if message["content"] not in turn else "does not end"
            raise TemplateError(
                f"the chat template {problem} the answer of message {number + 1}",
                hint="Set tokenization.template to plain.",
            )
        spans.append(Span(len(before), len(before) + end + len(renderer.end)))
    return MaskedText(text, spans)


def labels(ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: list[Span]) -> list[int]:
    """The labels of a row: its tokens where they reach into a trained span, else `IGNORED`.

    Args:
        ids: The row's token ids.
        offsets: Each token's range of characters.
        spans: The trained ranges of characters.
    """
    return [
        token if any(start < span.end and end > span.start for span in spans) else IGNORED
        for token, (start, end) in zip(ids, offsets, strict=True)
    ]
