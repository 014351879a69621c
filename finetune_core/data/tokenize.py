"""Tokenize: clean rows → token ids and labels, as Arrow files that are mapped, not loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_core.child import Emit
from finetune_core.config.sections import ModelConfig, TokenizationConfig
from finetune_core.data.masks import IGNORED, labels, mask
from finetune_core.data.templates import Renderer, make_renderer
from finetune_core.exceptions import EmptyDatasetError, ModelLoadError, TemplateError
from finetune_core.models.source import digest_tokenizer, find_model
from finetune_core.storage import digest_json, once
from finetune_core.types import CleanData, Record, TokenizedData, TokenizedSplit

VERSION = 2  # raise it when the same rows give other tokens than before
BATCH = 1000

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("length", pa.int32()),
    ]
)


class TokenizeRequest(Record):
    """What tokenizing needs: clean rows, a tokenizer and how to use it."""

    clean: CleanData
    model: ModelConfig
    tokenization: TokenizationConfig
    cache: Path

    @property
    def folder(self) -> Path:
        """The folder of the result, named by the digests of all that goes into it."""
        return self.cache / digest_json(
            {
                "data": self.clean.digest,
                "tokenizer": digest_tokenizer(find_model(self.model)),
                "config": self.tokenization.model_dump(mode="json"),
                "version": VERSION,
            }
        )


def tokenize(request: TokenizeRequest, emit: Emit) -> TokenizedData:
    """Tokenizes both splits, unless that was done before.

    Raises:
        ModelLoadError: The tokenizer does not load.
        TemplateError: The trained tokens cannot be told from the chat template.
        EmptyDatasetError: No row fits into the length limit.
    """
    final = request.folder
    return once(final, TokenizedData, lambda folder: _write(request, final.name, emit, folder))


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


def _write(request: TokenizeRequest, key: str, emit: Emit, folder: Path) -> TokenizedData:
    source = find_model(request.model)
    tokenizer = load_tokenizer(source)
    renderer = make_renderer(request.tokenization.template, tokenizer)
    limit = request.tokenization.max_length
    splits = {}
    for name, path in (("train", request.clean.train), ("validation", request.clean.validation)):
        splits[name] = _write_split(
            path, folder / f"{name}.arrow", tokenizer, renderer, limit, emit
        )
        if not splits[name].rows:
            raise EmptyDatasetError(
                f"every {name} row is longer than {limit} tokens",
                hint="Raise tokenization.max_length.",
            )
    return TokenizedData(
        folder=folder,
        digest=key,
        tokenizer_digest=digest_tokenizer(source),
        template=renderer.name,
        train_split=splits["train"],
        validation_split=splits["validation"],
    )


def _write_split(
    source: Path, target: Path, tokenizer: Any, renderer: Renderer, limit: int, emit: Emit
) -> TokenizedSplit:
    rows = tokens = trained = longest = 0
    too_long: list[int] = []
    total = pq.ParquetFile(source).metadata.num_rows
    with pa.ipc.new_stream(str(target), SCHEMA) as writer:
        for batch in pq.ParquetFile(source).iter_batches(BATCH):
            kept = []
            for row in _tokenized(batch.to_pylist(), tokenizer, renderer):
                if row["length"] > limit:
                    too_long.append(row["row"])
                    continue
                kept.append(row)
                rows += 1
                tokens += row["length"]
                trained += sum(label != IGNORED for label in row["labels"])
                longest = max(longest, row["length"])
            writer.write_table(pa.Table.from_pylist(kept, schema=SCHEMA))
            emit({"type": "progress", "done": rows + len(too_long), "total": total})
    return TokenizedSplit(
        rows=rows, tokens=tokens, trained_tokens=trained, longest=longest, too_long=too_long
    )


def _tokenized(
    rows: list[dict[str, Any]], tokenizer: Any, renderer: Renderer
) -> Iterator[dict[str, Any]]:
    masked = []
    for row in rows:
        try:
            masked.append(mask(row["messages"], renderer.with_tools(row["tools"])))
        except TemplateError as error:
            raise TemplateError(f"row {row['row']}: {error.message}", hint=error.hint) from error
    encoded = tokenizer(
        [text for text, _ in masked],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    for row, (_, spans), ids, offsets in zip(
        rows, masked, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        yield {
            "row": row["row"],
            "input_ids": ids,
            "labels": labels(ids, offsets, spans),
            "length": len(ids),
        }
