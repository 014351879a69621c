"""Rows as a text that is read and an answer by itself, for encoders and encoder-decoders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tokenizers

from finetune_core.config.sections import TokenizationConfig
from finetune_core.data.encode import Tokens, refused
from finetune_core.data.formats import TEXT, Conversation
from finetune_core.data.ledger import Finding
from finetune_core.exceptions import DatasetFormatError, TemplateError
from finetune_core.types import TooLong

SHOWN_LABELS = 10

Answers = Callable[[Sequence[str]], list["np.ndarray | Finding"]]  # their labels, or why not


class Pair(NamedTuple):
    """A row as two texts."""

    source: str
    answer: str


def read_pair(conversation: Conversation) -> Pair:
    """A conversation's last answer, and all that comes before it, line by line.

    Raises:
        TemplateError: There is no answer, none of text, or nothing before it.
    """
    messages = conversation.messages
    if messages and messages[0]["role"] == TEXT:
        raise TemplateError(
            "a plain text has no answer, which is all that a model of this kind learns",
            hint="Name the columns of text and answer by --input-field and --output-field.",
        )
    if conversation.rejected:
        raise TemplateError("a preference has two answers, and a model of this kind learns one")
    if conversation.tools or any(message["tool_calls"] for message in messages):
        raise TemplateError("a model of this kind calls no tools")
    places = [place for place, message in enumerate(messages) if message["trained"]]
    if not places:
        raise TemplateError("no turn is an answer to be learned")
    *before, last = messages[: places[-1] + 1]
    source = "\n".join(message["content"] for message in before)
    if not source.strip():
        raise TemplateError("nothing comes before the answer")
    return Pair(source, last["content"].strip())


class PairEncoder:
    """A tokenizer with its own special tokens around what is read, and whatever encodes answers.

    Args:
        tokenizer: A fast one.
        config: Of it the length limits the source and, of several tokens, the answer.
        answers: Encodes answers.
    """

    def __init__(self, tokenizer: Any, config: TokenizationConfig, answers: Answers) -> None:
        self._backend = _plain_backend(tokenizer)
        self._config = config
        self._answers = answers

    def encode(
        self, conversations: Sequence[Conversation], names: Sequence[str]
    ) -> list[tuple[list[Tokens], Finding | None]]:
        """Encodes rows, as `RowEncoder` says."""
        pairs: list[Pair | Finding] = []
        for name, conversation in zip(names, conversations, strict=True):
            try:
                pairs.append(read_pair(conversation))
            except TemplateError as error:
                pairs.append(refused(self._config, name, error))
        read = [pair for pair in pairs if isinstance(pair, Pair)]
        sources = iter(self._backend.encode_batch([pair.source for pair in read]))
        answers = iter(self._answers([pair.answer for pair in read]))
        return [
            self._row(pair, next(sources).ids, next(answers))
            if isinstance(pair, Pair)
            else ([], pair)
            for pair in pairs
        ]

    def _row(
        self, pair: Pair, ids: list[int], labels: np.ndarray | Finding
    ) -> tuple[list[Tokens], Finding | None]:
        if isinstance(labels, Finding):
            return [], labels
        limit, policy = self._config.max_length, self._config.too_long
        longest = max(len(ids), len(labels))
        if longest <= limit:
            return [Tokens(np.array(ids, dtype=np.int32), labels)], None
        size = f"{longest:,} tokens, of {limit:,} that it may have"
        if policy is TooLong.DROP:
            return [], Finding("too_long", "drop", size)
        if len(labels) > limit:
            detail = f"{size}; what is to be learned does not fit"
            return [], Finding("too_long", "drop", detail)
        side = "left" if policy is TooLong.TRUNCATE_LEFT else "right"
        self._backend.enable_truncation(limit, direction=side)
        short = self._backend.encode(pair.source).ids
        self._backend.no_truncation()
        tokens = Tokens(np.array(short, dtype=np.int32), labels)
        return [tokens], Finding("too_long", "change", f"{size}: the prompt is cut")


def text_encoder(tokenizer: Any) -> Answers:
    """Encodes answers that are written: their tokens, and the one that ends them.

    Raises:
        TemplateError: The tokenizer has no end token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise TemplateError("the tokenizer has no end token, so an answer could never end")
    backend = _plain_backend(tokenizer)

    def encode(answers: Sequence[str]) -> list[np.ndarray | Finding]:
        found = [encoding.ids for encoding in backend.encode_batch(list(answers))]
        ended = [ids if ids[-1:] == [end] else [*ids, end] for ids in found]
        return [np.array(ids, dtype=np.int32) for ids in ended]

    return encode


def label_encoder(labels: Sequence[str]) -> Answers:
    """Encodes answers that are chosen: the number of a label.

    Args:
        labels: All there are, by number.
    """
    numbers = {label: np.array([number], dtype=np.int32) for number, label in enumerate(labels)}

    def encode(answers: Sequence[str]) -> list[np.ndarray | Finding]:
        return [
            numbers[answer]
            if answer in numbers
            else Finding(
                "unknown_label",
                "drop",
                f"the label {answer!r} is none that is learned ({_listing(labels)})",
            )
            for answer in answers
        ]

    return encode


def answer_text(tokenizer: Any, labels: Sequence[int], names: Sequence[str]) -> str:
    """What an encoded answer says.

    Args:
        tokenizer: Decodes what is written.
        labels: The answer.
        names: Of the labels that can be chosen; none where answers are written.
    """
    if names:
        return names[labels[0]]
    text: str = tokenizer.decode(labels, skip_special_tokens=True)
    return text


def find_labels(rows: Path) -> list[str]:
    """The labels of clean rows, sorted: the answers, each of which many rows have.

    Args:
        rows: A Parquet file of `ROWS_SCHEMA`.

    Raises:
        DatasetFormatError: They are all the same, or all unlike.
    """
    counts: Counter[str] = Counter()
    for batch in pq.ParquetFile(rows).iter_batches(columns=["messages"]):
        messages = batch["messages"]
        flat = pc.list_flatten(messages)
        parents = pc.list_parent_indices(messages)
        is_text = pc.equal(pc.struct_field(flat, "role"), TEXT)
        trained = pc.and_not(pc.struct_field(flat, "trained"), is_text)
        content = pc.struct_field(flat, "content").filter(trained)
        last = pa.table({"row": parents.filter(trained), "content": content})
        answers = last.group_by("row", use_threads=False).aggregate([("content", "last")])
        counts.update(answer.strip() for answer in answers["content_last"].to_pylist())
    labels = sorted(counts)
    if len(labels) < 2:
        raise DatasetFormatError(
            f"all training rows have the label {labels[0]!r}" if labels else "no row has a label",
            hint="A model that chooses needs two labels or more. Are the columns the right ones? "
            "Name them by --input-field and --output-field.",
        )
    if len(labels) > 2 and max(counts.values()) == 1:
        raise DatasetFormatError(
            f"none of the {len(labels):,} answers occurs twice, so they are no labels "
            f"({_listing(labels)})",
            hint="This model chooses one of a few labels. To write answers, take a model that "
            "writes, as a T5; or name the label's column by --output-field.",
        )
    return labels


def _listing(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label[:40]) for label in labels[:SHOWN_LABELS])
    more = len(labels) - SHOWN_LABELS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _plain_backend(tokenizer: Any) -> tokenizers.Tokenizer:
    """A tokenizer that adds its special tokens, but neither pads nor cuts."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return backend
