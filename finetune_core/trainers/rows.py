"""Rows of whatever kind → the tokens that a training takes, for use from Python."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sections import DatasetConfig
from finetune_core.data.dataset import Dataset
from finetune_core.data.masks import IGNORED
from finetune_core.data.pipeline import DataPipeline
from finetune_core.exceptions import (
    DatasetError,
    DatasetFormatError,
    EmptyDatasetError,
    Fault,
    IncompatibleConfigError,
)
from finetune_core.models.tasks import fit_tokenization, label_names, task_of
from finetune_core.trainers.methods import check_format
from finetune_core.types import Task

if TYPE_CHECKING:
    import datasets

    Rows: TypeAlias = Dataset | datasets.Dataset | DatasetConfig | str | Path

TRAIN, VALIDATION = "train", "validation"


class Splits(NamedTuple):
    """Tokens to learn from, and those held out, as `input_ids`, `labels` and `length`."""

    train: datasets.Dataset
    validation: datasets.Dataset | None


def make_splits(
    dataset: Rows | Mapping[str, Rows],
    model: Any,
    tokenizer: Any,
    config: PipelineConfig,
    ratio: float | None,
) -> Splits:
    """Makes tokens of rows by the stages of a job; those that are tokens are taken as they are.

    Args:
        dataset: Rows, or a mapping of `train` and, where some are held out, `validation`.
        model: What learns from them.
        tokenizer: Its tokenizer, a fast one of transformers'.
        config: Its sections for rows, tokens and the method.
        ratio: The share that is held out where no validation rows are given. Without it, that of
            the config, but nothing of tokens; with 0, nothing.

    Raises:
        InputError: The rows cannot be read, or the method does not learn from such.
    """
    splits = dict(dataset) if isinstance(dataset, Mapping) else {TRAIN: dataset}
    if TRAIN not in splits:
        raise DatasetFormatError(
            f"the mapping of rows has no train (found: {', '.join(map(str, splits)) or 'none'})",
            hint="Name the rows to learn from train, and those held out validation.",
        )
    rows, validation = splits[TRAIN], splits.get(VALIDATION)
    ready = {_are_tokens(each) for each in (rows, validation) if each is not None}
    if len(ready) > 1:
        raise DatasetFormatError(
            "of train and validation, one is tokens (input_ids) and the other is not",
            hint="Give both as rows, or both as tokens.",
        )
    tokens: Any = Splits(rows, validation)
    if ready == {False}:
        tokens = _encode(rows, validation, model, tokenizer, config, ratio)
    elif validation is None and ratio:
        parts = tokens.train.train_test_split(ratio, seed=config.training.seed)
        tokens = Splits(parts["train"], parts["test"])
    known = model.get_input_embeddings().num_embeddings
    vocabulary = max(known, max(tokenizer.get_vocab().values()) + 1)
    check = partial(_checked, vocabulary=vocabulary, task=task_of(model))
    held_out = tokens.validation
    return Splits(check(tokens.train, TRAIN), held_out and check(held_out, VALIDATION))


def digest_tokens(rows: datasets.Dataset) -> str:
    """The sha256 over rows as `Splits` has them."""
    import numpy as np
    import pyarrow.compute as pc

    table = rows.with_format("arrow")[:]
    digest = hashlib.sha256(np.asarray(table["length"], np.int64).tobytes())
    for name in ("input_ids", "labels"):
        digest.update(np.asarray(pc.list_flatten(table[name]), np.int64).tobytes())
    return digest.hexdigest()


def _are_tokens(rows: Any) -> bool:
    return "input_ids" in (getattr(rows, "column_names", None) or ())


def _encode(
    rows: Any,
    validation: Any,
    model: Any,
    tokenizer: Any,
    config: PipelineConfig,
    ratio: float | None,
) -> Splits:
    """Sanitizes and tokenizes as a job does; rows in memory go through a file."""
    with tempfile.TemporaryDirectory(prefix="finetune-rows-") as folder:
        section = config.dataset
        if isinstance(rows, DatasetConfig):
            section = rows.model_copy(update={"validation_ratio": ratio} if ratio else {})
        else:
            section = section.model_copy(update={"path": _file(rows, Path(folder), TRAIN)})
        if validation is not None:
            file = _file(validation, Path(folder), VALIDATION)
            section = section.model_copy(update={"validation_path": file})
        held_out = bool(ratio != 0 or section.validation_path or section.validation_split)
        task, most = task_of(model), tokenizer.model_max_length
        how = fit_tokenization(config.tokenization, task, model.config.to_dict(), most)
        pipeline = DataPipeline(section, how, tokenizer, task)
        try:
            tokens = pipeline.run(split_for_validation=held_out)
        except DatasetError as error:
            message = error.message  # of files that nobody knows of
            for name in (TRAIN, VALIDATION):
                message = message.replace(f"{folder}/{name}.jsonl", f"the {name} dataset")
            raise type(error)(message, hint=error.hint) from None
    statistics = pipeline.get_statistics()
    check_format(config.training.method, statistics["format"])
    if task is Task.CLASSIFICATION:
        _check_labels(model, statistics["labels"])
    return Splits(tokens[TRAIN], tokens[VALIDATION]) if held_out else Splits(tokens, None)


def _check_labels(model: Any, found: list[str]) -> None:
    """Refuses labels that are not those, in that order, which a model chooses from.

    Raises:
        IncompatibleConfigError: They are not.
    """
    known = label_names(model.config.id2label)
    if known != found:
        problem = (
            f"chooses from {', '.join(known)}, and the rows say {', '.join(found)}; load it by "
            f"load_model_and_tokenizer(config, labels={found})"
        )
        raise IncompatibleConfigError([Fault("model", problem)])


def _file(rows: Any, folder: Path, name: str) -> str:
    """The file that rows are in, or one that they are written to."""
    import datasets

    if isinstance(rows, (str, Path)):
        return str(rows)
    if not isinstance(rows, (Dataset, datasets.Dataset)):
        raise DatasetFormatError(
            f"the {name} rows are of the type {type(rows).__name__}, which is not known",
            hint="Give a Dataset, of finetune_core or of datasets, a DatasetConfig or a path.",
        )
    file = folder / f"{name}.jsonl"
    with file.open("w") as lines:
        lines.writelines(f"{_line(row)}\n" for row in rows)
    return str(file)


def _line(row: Mapping[str, Any]) -> str:
    """A row as JSON, which has no word for the NaN that tables have where nothing stands."""
    values = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row.items()
    }
    return json.dumps(values, default=str)  # a date, say, of a column that nobody reads


def _checked(rows: datasets.Dataset, name: str, *, vocabulary: int, task: Task) -> datasets.Dataset:
    """Tokens as a training takes them: not padded, with their labels, and with their lengths.

    Raises:
        EmptyDatasetError: There is no row, or nothing in them is learned.
        DatasetFormatError: They are no tokens of the model's.
    """
    import pyarrow.compute as pc

    if not len(rows):
        raise EmptyDatasetError(f"the {name} dataset of tokens has no rows")
    rows = rows.with_format(None)
    causal = task is Task.CAUSAL
    if "labels" not in rows.column_names and not causal:
        raise DatasetFormatError(f"the {name} rows have no labels, and the model does {task.value}")
    if "labels" not in rows.column_names or _are_padded(rows):
        rows = rows.map(_without_padding if causal else _unpadded_source)
    rows = rows.select_columns(["input_ids", "labels"])
    table = rows.with_format("arrow")[:]
    lengths = pc.list_value_length(table["input_ids"])
    if causal and lengths != pc.list_value_length(table["labels"]):
        raise DatasetFormatError(f"the {name} rows have not as many labels as input_ids")
    largest = pc.max(pc.list_flatten(table["input_ids"])).as_py()
    if largest is None or largest >= vocabulary:
        raise DatasetFormatError(
            f"the {name} rows have the token {largest}, and the model knows {vocabulary:,} tokens",
            hint="Make the tokens with the model's own tokenizer.",
        )
    if not pc.any(pc.not_equal(pc.list_flatten(table["labels"]), IGNORED)).as_py():
        raise EmptyDatasetError(f"of the {name} rows nothing is learned: all labels are {IGNORED}")
    return rows.add_column("length", lengths.to_pylist())


def _are_padded(rows: datasets.Dataset) -> bool:
    import pyarrow.compute as pc

    if "attention_mask" not in rows.column_names:
        return False
    masks = rows.select_columns(["attention_mask"]).with_format("arrow")[:]["attention_mask"]
    return not pc.min(pc.list_flatten(masks)).as_py()


def _unpadded_source(row: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(row["input_ids"], row["attention_mask"], strict=True)
    return {"input_ids": [token for token, seen in pairs if seen]}


def _without_padding(row: dict[str, Any]) -> dict[str, Any]:
    ids: list[int] = row["input_ids"]
    mask: Iterable[int] = row.get("attention_mask") or [1] * len(ids)
    places = [place for place, seen in enumerate(mask) if seen]
    labels = row.get("labels") or ids
    return {
        "input_ids": [ids[place] for place in places],
        "labels": [labels[place] for place in places],
    }
