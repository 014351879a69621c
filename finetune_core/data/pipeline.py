"""DataPipeline: from a dataset to the tokens that a trainer takes, for use from Python."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from finetune_core.config.sections import DatasetConfig, TokenizationConfig
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.templates import ALPACA, INPUT, INSTRUCTION, RESPONSE
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.exceptions import FineTuneError
from finetune_core.models.tasks import fit_tokenization
from finetune_core.types import CleanData, Task, TokenizedData

if TYPE_CHECKING:
    import datasets


class DataPipeline:
    """Sanitizes and tokenizes a dataset as a job does.

    The files lie in a temporary folder that goes with the pipeline; `save_processed` keeps them.

    Args:
        dataset_config: Which rows, and what the rules do with them.
        tokenization_config: How rows become tokens.
        tokenizer: A fast tokenizer of transformers'.
        task: What the model does that learns from them.

    Example:
        >>> pipeline = DataPipeline(config.dataset, config.tokenization, tokenizer)
        >>> splits = pipeline.run()
        >>> splits["train"].column_names
        ['input_ids', 'attention_mask', 'labels']
    """

    def __init__(
        self,
        dataset_config: DatasetConfig,
        tokenization_config: TokenizationConfig,
        tokenizer: Any,
        task: Task = Task.CAUSAL,
    ) -> None:
        self._task = task
        self._dataset = dataset_config
        self._tokenization = tokenization_config
        self._tokenizer = tokenizer
        self._folder = tempfile.TemporaryDirectory(prefix="finetune-data-")
        self._done: tuple[CleanData, TokenizedData] | None = None

    def run(self, split_for_validation: bool = True) -> Any:
        """Gives `{"train": ..., "validation": ...}`, or all rows as one dataset.

        Args:
            split_for_validation: Whether rows are held out.

        Returns:
            Datasets of `datasets`, with `input_ids`, `attention_mask` and `labels` (-100 where
            nothing is learned), and `evaluation` too where the config names such rows.

        Raises:
            FineTuneError: As the stages of a job raise it.
        """
        cache = Path(self._folder.name)
        self._tokenizer.save_pretrained(cache / "tokenizer")
        clean = sanitize(SanitizeRequest(dataset=self._dataset, cache=cache / "data"), _ignore)
        tokens = tokenize(
            TokenizeRequest(
                clean=clean,
                tokenizer=cache / "tokenizer",
                task=self._task,
                tokenization=fit_tokenization(self._tokenization, self._task, {}, sys.maxsize),
                sanitize=self._dataset.sanitize,
                cache=cache / "tokens",
            ),
            _ignore,
        )
        self._done = clean, tokens
        splits = {"train": _rows(tokens.train), "validation": _rows(tokens.validation)}
        if tokens.evaluation_split:
            splits["evaluation"] = _rows(tokens.measured)
        if split_for_validation:
            return {name: rows.remove_columns(["row", "length"]) for name, rows in splits.items()}
        from datasets import concatenate_datasets

        both = concatenate_datasets([splits["train"], splits["validation"]])
        return both.sort("row").remove_columns(["row", "length"])

    def get_statistics(self) -> dict[str, Any]:
        """What there is to know of the rows: how many, how long, how much of them is learned.

        Raises:
            FineTuneError: The pipeline has not been run.
        """
        clean, tokens = self._result()
        splits = [tokens.train_split, tokens.validation_split]
        samples, count = sum(split.rows for split in splits), sum(split.tokens for split in splits)
        return {
            "format": clean.format,
            "labels": tokens.labels,
            "num_samples": samples,
            "avg_words": _words(clean) / (clean.train_rows + clean.validation_rows),
            "avg_tokens": count / samples,
            "max_tokens": max(split.longest for split in splits),
            "trained_tokens": sum(split.trained_tokens for split in splits),
            "rows": tokens.rows,
            "kept": tokens.kept,
            "changed": tokens.changed,
            "dropped": tokens.dropped,
        }

    def save_processed(self, path: str | Path) -> None:
        """Writes the tokens as a folder that `datasets.load_from_disk` reads.

        Raises:
            FineTuneError: The pipeline has not been run.
        """
        from datasets import DatasetDict

        _, tokens = self._result()
        splits = {"train": _rows(tokens.train), "validation": _rows(tokens.validation)}
        DatasetDict(splits).save_to_disk(str(path))

    def _result(self) -> tuple[CleanData, TokenizedData]:
        if self._done is None:
            raise FineTuneError("the pipeline has not been run", hint="Call run() first.")
        return self._done


def prepare_dataset(
    dataset_config: DatasetConfig,
    tokenization_config: TokenizationConfig,
    tokenizer: Any,
    split_for_validation: bool = True,
    validation_ratio: float | None = None,
) -> dict[str, datasets.Dataset]:
    """Sanitizes and tokenizes a dataset.

    Args:
        dataset_config: Which rows, and what the rules do with them.
        tokenization_config: How rows become tokens.
        tokenizer: A fast tokenizer of transformers'.
        split_for_validation: Whether rows are held out; without it, all are in `train`.
        validation_ratio: The share held out, where it is not the config's.

    Raises:
        FineTuneError: As the stages of a job raise it.
    """
    if validation_ratio is not None:
        fields = {**dataset_config.model_dump(), "validation_ratio": validation_ratio}
        dataset_config = DatasetConfig.model_validate(fields)
    rows = DataPipeline(dataset_config, tokenization_config, tokenizer).run(split_for_validation)
    return rows if split_for_validation else {"train": rows}


def quick_load(
    path: str | Path, tokenizer: Any, max_samples: int | None = None, max_length: int = 1024
) -> datasets.Dataset:
    """Reads and tokenizes a file in one call, all of its rows together.

    Args:
        path: The file or folder.
        tokenizer: A fast tokenizer of transformers'.
        max_samples: Read only so many rows.
        max_length: The tokens that a row may have; longer ones are left out.

    Raises:
        FineTuneError: As the stages of a job raise it.
    """
    dataset = DatasetConfig(path=str(path), max_samples=max_samples)
    tokenization = TokenizationConfig(max_length=max_length)
    rows: datasets.Dataset = DataPipeline(dataset, tokenization, tokenizer).run(False)
    return rows


def format_instruction_dataset(raw: datasets.Dataset) -> datasets.Dataset:
    """Writes `{instruction, input, response|output}` rows as one text each.

    In the words of Stanford Alpaca (Taori et al. 2023), as many models were trained with.

    Args:
        raw: The rows.

    Returns:
        Rows with the one column `text`.

    Raises:
        NoTextColumnsError: The columns are not there.
    """
    from finetune_core.data.formats import ALPACA_ANSWERS, find_format
    from finetune_core.types import DatasetFormat

    find_format(raw.column_names, forced=DatasetFormat.ALPACA)
    answer = next(name for name in ALPACA_ANSWERS if name in raw.column_names)

    def write(row: dict[str, Any]) -> dict[str, str]:
        given = row.get("input") or ""
        paired = ", paired with an input that provides further context" if given else ""
        parts = [ALPACA.format(paired=paired), INSTRUCTION + row["instruction"]]
        if given:
            parts.append(INPUT + given)
        return {"text": "\n\n".join([*parts, RESPONSE + row[answer]])}

    return raw.map(write, remove_columns=raw.column_names)


def _ignore(_: object) -> None:
    """Nobody listens to the events."""


def _rows(path: Path) -> Any:
    """The tokens in memory, so that no file is needed any more."""
    from datasets import Dataset

    rows = Dataset.from_file(str(path), in_memory=True)
    return rows.add_column("attention_mask", [[1] * length for length in rows["length"]])


def _words(clean: CleanData) -> int:
    count = 0
    for path in (clean.train, clean.validation):
        for batch in pq.ParquetFile(path).iter_batches(columns=["messages"]):
            contents = pc.struct_field(pc.list_flatten(batch["messages"]), "content")
            count += pc.sum(pc.count_substring_regex(contents, r"\S+")).as_py() or 0
    return count
