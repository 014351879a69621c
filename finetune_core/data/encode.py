"""Encode: some clean rows → token ids and labels, and what became of those that do not fit.

It knows nothing of other rows, so that several processes can do it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import tokenizers

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.sections import TokenizationConfig
from finetune_core.data.examine import original
from finetune_core.data.formats import TEXT, Conversation, Message
from finetune_core.data.ledger import Finding
from finetune_core.data.masks import IGNORED, MaskedText, Span, mask
from finetune_core.data.rows import to_conversation
from finetune_core.data.shorten import shortened, split
from finetune_core.data.templates import PlainRenderer, Renderer, make_renderer
from finetune_core.exceptions import ModelLoadError, TemplateError
from finetune_core.types import Task, TooLong

TOKENS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("length", pa.int32()),
    ]
)


class Tokens(NamedTuple):
    """A row's tokens, int32.

    For a causal model there is a label a token: the token, or `IGNORED`. For others the labels are
    the answer by itself: its tokens, or the one number of a class.
    """

    ids: np.ndarray
    labels: np.ndarray


class Revision(NamedTuple):
    """A row that is not tokenized as it is: where it stands, why, and itself as JSON."""

    file: str
    row: int
    finding: Finding
    original: str


class Encoded(NamedTuple):
    """What came of so many rows: their tokens, as `TOKENS_SCHEMA`, and what is not as it was."""

    rows: int
    tokens: pa.RecordBatch
    trained: int
    revisions: list[Revision]


class Recipe(NamedTuple):
    """What an encoder is made of.

    Attributes:
        tokenizer: Its folder.
        digest: Of the tokenizer's files.
        config: The tokenization section.
        task: The model's.
        labels: The names of a classification's labels, by number.
    """

    tokenizer: Path
    digest: str
    config: TokenizationConfig
    task: Task
    labels: tuple[str, ...]


class RowEncoder(Protocol):
    """Makes tokens of rows."""

    def encode(
        self, conversations: Sequence[Conversation], names: Sequence[str]
    ) -> list[tuple[list[Tokens], Finding | None]]:
        """Encodes rows, each into one or, where it is split, several; into none if it is dropped.

        Args:
            conversations: The rows.
            names: How errors call them.
        """


def encode(recipe: Recipe, sanitize: SanitizeConfig, batch: pa.RecordBatch) -> Encoded:
    """Encodes rows.

    Args:
        recipe: The encoder's.
        sanitize: Says what is personal, and may not stand in the ledger.
        batch: The rows, as `ROWS_SCHEMA`.

    Raises:
        ModelLoadError: The tokenizer does not load.
        TemplateError: The trained tokens of a row, named by its number, cannot be told.
    """
    rows = batch.to_pylist()
    conversations = [to_conversation(row) for row in rows]
    names = [f"row {row['row']} of the {row['file']} file" for row in rows]
    results = _encoder(recipe).encode(conversations, names)
    numbers, parts, revisions = [], [], []
    for row, conversation, (tokens, finding) in zip(rows, conversations, results, strict=True):
        numbers += [row["row"]] * len(tokens)
        parts += tokens
        if finding:
            values = original(_plain_values(conversation), sanitize)
            revisions.append(Revision(row["file"], row["row"], finding, values))
    trained = sum(int((labels != IGNORED).sum()) for _, labels in parts)
    return Encoded(len(rows), _table(numbers, parts), trained, revisions)


def make_encoder(
    tokenizer: Any, config: TokenizationConfig, task: Task, labels: Sequence[str] = ()
) -> RowEncoder:
    """The encoder of a task.

    Raises:
        TemplateError: There is no template where the task needs one, or no end token.
    """
    if task is Task.CAUSAL:
        return Encoder(tokenizer, config)
    from finetune_core.data.pairs import PairEncoder, label_encoder, text_encoder

    answers = text_encoder(tokenizer) if task is Task.SEQ2SEQ else label_encoder(labels)
    return PairEncoder(tokenizer, config, answers)


def load_tokenizer(folder: Path) -> Any:
    """Loads a fast tokenizer from a model's folder; no code of the model's is run.

    Raises:
        ModelLoadError: It does not load, or gives no character offsets.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever the files make it stumble over
        raise ModelLoadError(f"the tokenizer in {folder} does not load: {error}") from error
    if not tokenizer.is_fast:
        raise ModelLoadError(f"the tokenizer in {folder} has no fast version")
    return tokenizer


def template_name(tokenizer: Any, config: TokenizationConfig, task: Task) -> str:
    """How reports call what writes a row's messages as text; raises as `make_encoder`."""
    return make_renderer(config.template, tokenizer).name if task is Task.CAUSAL else "none"


class _Text(NamedTuple):
    """A row as text, and the ids of what starts it, which some tokenizers must not see as text."""

    masked: MaskedText
    begin: list[int]


class Encoder:
    """A tokenizer with its template."""

    def __init__(self, tokenizer: Any, config: TokenizationConfig) -> None:
        self._tokenizer = tokenizer
        self._renderer = make_renderer(config.template, tokenizer)
        self._texts = PlainRenderer(tokenizer)  # of rows that are one plain text
        self._config = config
        # A post-processor would add tokens, and take blanks out of the characters of a token.
        self._backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.post_processor = None
        self._backend.no_padding()
        self._backend.no_truncation()

    def encode(
        self, conversations: Sequence[Conversation], names: Sequence[str]
    ) -> list[tuple[list[Tokens], Finding | None]]:
        """Encodes rows, as `RowEncoder` says."""
        texts: list[_Text | None] = []
        results: list[tuple[list[Tokens], Finding | None]] = []
        for name, conversation in zip(names, conversations, strict=True):
            try:
                texts.append(self._text(conversation))
                results.append(([], None))
            except TemplateError as error:
                texts.append(None)
                results.append(([], refused(self._config, name, error)))
        encodings = iter(self._encodings([text.masked.text for text in texts if text]))
        for place, (name, conversation) in enumerate(zip(names, conversations, strict=True)):
            text = texts[place]
            if text is None:
                continue
            try:
                tokens = self._tokens(text, next(encodings))
                if len(tokens.ids) <= self._config.max_length:
                    results[place] = ([tokens], None)
                else:
                    results[place] = self._fit(conversation, tokens)
            except TemplateError as error:
                results[place] = ([], refused(self._config, name, error))
        return results

    def _text(self, conversation: Conversation) -> _Text:
        messages = conversation.messages
        if messages and messages[0]["role"] == TEXT:
            renderer: Renderer = self._texts
            text = renderer.render(messages)
            masked = MaskedText(text, [Span(len(renderer.begin), len(text))])
        else:
            renderer = self._renderer.with_tools(conversation.tools)
            masked = mask(messages, renderer)
        if not masked.spans:
            raise TemplateError("no token would be trained: no turn is an answer to be learned")
        if not renderer.begin:
            return _Text(masked, [])
        cut = len(renderer.begin)
        spans = [Span(start - cut, end - cut) for start, end in masked.spans]
        return _Text(MaskedText(masked.text[cut:], spans), [self._tokenizer.bos_token_id])

    def _encodings(self, texts: list[str]) -> list[Any]:
        encodings: list[Any] = self._backend.encode_batch(texts, add_special_tokens=False)
        return encodings

    def _tokens(self, text: _Text, encoding: Any) -> Tokens:
        masked = text.masked
        ids = np.array(encoding.ids, dtype=np.int32)
        runs = [_run(encoding, span) for span in masked.spans]
        if any(
            encoding.token_to_chars(first)[0] < span.start
            for (first, _), span in zip(runs, masked.spans, strict=True)
        ):
            ids, runs = self._in_pieces(masked, ids)
        labels = np.full_like(ids, IGNORED)
        for first, last in runs:
            labels[first : last + 1] = ids[first : last + 1]
        begin = np.array(text.begin, dtype=np.int32)
        nothing = np.full_like(begin, IGNORED)
        return Tokens(np.concatenate([begin, ids]), np.concatenate([nothing, labels]))

    def _in_pieces(
        self, masked: MaskedText, whole: np.ndarray
    ) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Encodes what comes before an answer by itself, as it is encoded at inference.

        Otherwise a token could reach from the prompt into the answer.
        """
        cuts = [0, *(span.start for span in masked.spans), len(masked.text)]
        pieces = [masked.text[start:end] for start, end in pairwise(cuts)]
        encodings = self._encodings(pieces)
        ids = np.concatenate([np.array(each.ids, dtype=np.int32) for each in encodings])
        if self._tokenizer.decode(ids) != self._tokenizer.decode(whole):
            raise TemplateError(
                "a token reaches from the prompt into the answer, and this tokenizer does not "
                "write the two apart as it writes them together",
                hint="End the prompt, or begin the answer, without white space.",
            )
        befores = accumulate(len(encoding.ids) for encoding in encodings)
        runs = [
            (before + first, before + last)
            for before, encoding, span in zip(befores, encodings[1:], masked.spans, strict=False)
            for first, last in [_run(encoding, Span(0, span.end - span.start))]
        ]
        return ids, runs

    def _fit(
        self, conversation: Conversation, tokens: Tokens
    ) -> tuple[list[Tokens], Finding | None]:
        """Does with a row that is too long what the config says."""
        limit, policy = self._config.max_length, self._config.too_long
        size = f"{len(tokens.ids):,} tokens, of {limit:,} that it may have"
        dropped = Finding("too_long", "drop", size)
        if policy is TooLong.DROP:
            return [], dropped
        if conversation.messages[0]["role"] == TEXT:
            return self._fit_text(tokens, size)
        if policy is TooLong.SPLIT:
            parts, left_out = split(conversation, self._fits)
            what = f"split into {len(parts)} rows"
            if left_out:
                what += f"; {left_out} of its answers fit into none"
        else:
            left = policy is TooLong.TRUNCATE_LEFT
            short = shortened(conversation, self._length, limit, left)
            parts = [short] if short else []
            what = "the prompt is cut"
        if not parts:
            return [], dropped._replace(detail=f"{size}; what is to be learned does not fit")
        encoded = [self._one(part) for part in parts]
        return encoded, Finding("too_long", "change", f"{size}: {what}")

    def _fit_text(self, tokens: Tokens, size: str) -> tuple[list[Tokens], Finding | None]:
        limit, policy = self._config.max_length, self._config.too_long
        begin = int(tokens.labels[0] == IGNORED)  # the token that starts every text
        room = limit - begin
        cuts = {
            TooLong.TRUNCATE_LEFT: [len(tokens.ids) - room],
            TooLong.TRUNCATE_RIGHT: [begin],
        }.get(policy, list(range(begin, len(tokens.ids), room)))
        parts = [
            Tokens(*(np.concatenate([each[:begin], each[cut : cut + room]]) for each in tokens))
            for cut in cuts
        ]
        if len(parts[-1].ids) == 1:  # a first token is never learned, so one goes before it
            parts[-1] = Tokens(tokens.ids[-2:], np.array([IGNORED, tokens.ids[-1]], dtype=np.int32))
        what = f"split into {len(parts)} rows" if policy is TooLong.SPLIT else "the text is cut"
        return parts, Finding("too_long", "change", f"{size}: {what}")

    def _one(self, conversation: Conversation) -> Tokens:
        text = self._text(conversation)
        return self._tokens(text, *self._encodings([text.masked.text]))

    def _length(self, conversation: Conversation) -> int:
        return len(self._one(conversation).ids)

    def _fits(self, conversation: Conversation) -> bool:
        try:
            return self._length(conversation) <= self._config.max_length
        except TemplateError:  # it can be that this part alone has nothing to learn
            return False


def refused(config: TokenizationConfig, name: str, error: TemplateError) -> Finding:
    """What becomes of a row that cannot be encoded: it is dropped, where the config says so.

    Raises:
        TemplateError: The config says that it is an error; it names the row.
    """
    if config.refused == "error":
        hint = f"{error.hint or ''}\ntokenization.refused: drop leaves such rows out.".strip()
        raise TemplateError(f"{name}: {error.message}", hint=hint) from error
    return Finding("template", "drop", error.message)


@lru_cache(maxsize=1)
def _encoder(recipe: Recipe) -> RowEncoder:
    return make_encoder(load_tokenizer(recipe.tokenizer), recipe.config, recipe.task, recipe.labels)


def _run(encoding: Any, span: Span) -> tuple[int, int]:
    """The first and the last token of a range of characters, both included."""
    first = _token(encoding, range(span.start, span.end))
    last = _token(encoding, range(span.end - 1, span.start - 1, -1))
    count = len(encoding)
    while last + 1 < count and encoding.token_to_chars(last + 1)[0] < span.end:
        last += 1  # one character can be several tokens
    return first, last


def _token(encoding: Any, places: range) -> int:
    """The token of the first of some characters that has one; blanks may have none."""
    for place in places:
        token = encoding.char_to_token(place)
        if token is not None:
            return int(token)
    raise TemplateError("no token would be trained: the tokenizer leaves out the whole answer")


def _table(numbers: list[int], parts: list[Tokens]) -> pa.RecordBatch:
    def lists(arrays: Sequence[np.ndarray]) -> pa.Array:
        offsets = pa.array([0, *accumulate(map(len, arrays))], pa.int32())
        flat = np.concatenate(arrays) if arrays else np.array([], dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(flat, pa.int32()))

    return pa.RecordBatch.from_arrays(
        [
            pa.array(numbers, pa.int64()),
            lists([ids for ids, _ in parts]),
            lists([labels for _, labels in parts]),
            pa.array([len(ids) for ids, _ in parts], pa.int32()),
        ],
        schema=TOKENS_SCHEMA,
    )


def _plain_values(conversation: Conversation) -> dict[str, Any]:
    """The row as it was when it was tokenized, without what it does not have."""

    def messages(turns: Sequence[Message]) -> list[dict[str, Any]]:
        return [{**turn, "tool_calls": json.loads(turn["tool_calls"] or "null")} for turn in turns]

    values = {
        "messages": messages(conversation.messages),
        "tools": json.loads(conversation.tools or "null"),
        "rejected": messages(conversation.rejected),
    }
    return {name: value for name, value in values.items() if value}
