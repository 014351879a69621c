"""Dataset: named rows, for use from Python."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_core.data.loading import read_rows
from finetune_core.exceptions import DatasetFormatError, EmptyDatasetError

if TYPE_CHECKING:
    import pandas as pd

SEED = 42


class Dataset:
    """Rows in memory, each a mapping from column to value.

    Args:
        name: What the dataset is called.
        data: The rows: mappings, or a data frame.
        path: A file to read the rows from, where `data` is not given.

    Example:
        >>> rows = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
        >>> train, validation = Dataset("reviews", rows).split(0.5)
        >>> len(train), len(validation)
        (1, 1)
    """

    def __init__(
        self,
        name: str,
        data: Sequence[Mapping[str, Any]] | pd.DataFrame | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.name = name
        if data is None:
            data = [row.values for row in read_rows(Path(path))] if path is not None else []
        elif not isinstance(data, Sequence):
            data = data.to_dict("records")
        self.rows: list[dict[str, Any]] = [dict(row) for row in data]

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Reads a file that `finetune_core.data.loading` knows; its stem is the name.

        Raises:
            DatasetError: It is not there, has no row, or cannot be read.
        """
        return cls(Path(path).stem, path=path)

    def save(self, path: str | Path) -> None:
        """Writes the rows as JSON, JSONL or CSV, by the file's ending.

        Raises:
            DatasetFormatError: The ending is none of these.
            EmptyDatasetError: There is no row.
        """
        path = Path(path)
        if path.suffix not in (".json", ".jsonl", ".csv"):
            raise DatasetFormatError(
                f"{path}: cannot write {path.suffix or 'a file without ending'}",
                hint="Known are: .json, .jsonl, .csv.",
            )
        if not self.rows:
            raise EmptyDatasetError(f"the dataset {self.name} has no rows to write")
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                columns = list(dict.fromkeys(column for row in self.rows for column in row))
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)
            elif path.suffix == ".json":
                json.dump(self.rows, file, ensure_ascii=False, indent=2)
            else:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)

    def split(self, train_ratio: float = 0.8) -> tuple[Dataset, Dataset]:
        """Draws rows for training; the others are for validation. The draw is always the same.

        Args:
            train_ratio: The share of rows for training, between 0 and 1.
        """
        if not 0 < train_ratio < 1:
            raise ValueError(f"train_ratio should lie between 0 and 1, got {train_ratio}")
        order = random.Random(SEED).sample(range(len(self)), len(self))  # noqa: S311
        cut = round(len(self) * train_ratio)
        return self._take("train", order[:cut]), self._take("validation", order[cut:])

    def sample(self, n: int) -> Dataset:
        """Draws `n` rows, or all where there are fewer. The draw is always the same."""
        drawn = random.Random(SEED).sample(range(len(self)), min(n, len(self)))  # noqa: S311
        return self._take("sample", drawn)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def _take(self, part: str, numbers: Sequence[int]) -> Dataset:
        return Dataset(f"{self.name}-{part}", [self.rows[number] for number in sorted(numbers)])
