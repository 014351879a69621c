"""Finds rows nearly the same as others, by MinHash and without comparing each with each."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rensa import RMinHash

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.data.formats import Conversation
from finetune_core.data.rules.verdict import Verdict

PERMUTATIONS = 128
RUN = 5  # words; as Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better"
# Signs count as words, or `a < b` and `a > b` were the same; where a script puts no spaces between
# words (Thai, Lao, Japanese, Chinese), each letter counts.
UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
MOST_COMPARED = 500  # rows a band: where thousands begin alike, the latest of them


class Sketches(NamedTuple):
    """What is remembered of rows.

    Attributes:
        bands: (rows, bands), uint64; rows that share one are compared.
        hashes: (rows, 128), uint8; the share that two rows have alike estimates their similarity.
    """

    bands: np.ndarray
    hashes: np.ndarray

    def take(self, rows: Sequence[int]) -> Sketches:
        """Those of some rows."""
        return Sketches(self.bands[rows], self.hashes[rows])


class Near(NamedTuple):
    """The row that another is near to, as its place, and their similarity."""

    place: int
    similarity: float


def sketch(rows: Sequence[Conversation], threshold: float) -> Sketches:
    """Hashes rows.

    Args:
        rows: The rows.
        threshold: The similarity at which rows are near, between 0 and 1.
    """
    digests = RMinHash.digest_matrix_from_token_sets([_runs(row) for row in rows], PERMUTATIONS, 1)
    hashes = np.array(digests.to_rows(), dtype=np.uint32).reshape(len(rows), PERMUTATIONS)
    count = bands(threshold)
    parts = hashes.reshape(len(rows), count, -1).astype(np.uint64)
    # Odd factors that keep the order of a band's hashes; what overflows is let go.
    factors = np.random.default_rng(1).integers(0, 2**63, parts.shape[2], np.uint64) * 2 + 1
    return Sketches((parts * factors).sum(2, dtype=np.uint64), hashes.astype(np.uint8))


# What each rule says of the rows that are near to one, by file and number.
NearVerdicts = dict[tuple[str, int], dict[str, Verdict]]


class NearRows:
    """The rules near_duplicate and near_leak.

    They judge once all rows have been added, for what is remembered of rows can then be sorted,
    which takes a tenth of the memory of an index.
    """

    def __init__(self, config: SanitizeConfig) -> None:
        self._config = config
        self._bands: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []
        self._files: list[str] = []  # of each block
        self._numbers: list[np.ndarray] = []

    def add(self, file: str, numbers: Sequence[int], sketches: Sketches) -> None:
        """Takes rows in.

        Args:
            file: training, validation or evaluation.
            numbers: (rows,), their numbers there.
            sketches: Of these rows.
        """
        self._files.append(file)
        self._numbers.append(np.array(numbers, dtype=np.int64))
        self._bands.append(sketches.bands)
        self._hashes.append(sketches.hashes)

    def verdicts(self, training: str) -> NearVerdicts:
        """Judges the rows; none may be added any more.

        Args:
            training: The file whose rows may not stand in the others.
        """
        if not self._files:
            return {}
        files = np.repeat(self._files, [len(numbers) for numbers in self._numbers])
        numbers = np.concatenate(self._numbers)
        # One after the other, and each list let go: both at once would take twice the memory.
        bands, self._bands = np.concatenate(self._bands), []
        hashes, self._hashes = np.concatenate(self._hashes), []
        sketches = Sketches(bands, hashes)
        threshold = self._config.near_threshold
        found: NearVerdicts = defaultdict(dict)
        left = np.ones(len(files), dtype=bool)
        if (action := self._config.near_duplicate) != "off":
            for file in set(self._files):
                of_file = files == file
                for row, near in find_near(sketches, threshold, of_file, of_file).items():
                    detail = f"{near.similarity:.0%} the same as row {numbers[near.place]}"
                    found[file, int(numbers[row])]["near_duplicate"] = Verdict(action, detail)
                    left[row] = action != "drop"
        if (action := self._config.near_leak) != "off":
            learned = files == training
            near_rows = find_near(sketches, threshold, learned & left, ~learned & left)
            for row, near in near_rows.items():
                detail = f"{near.similarity:.0%} the same as row {numbers[near.place]}"
                verdict = Verdict(action, f"{detail} of the {files[near.place]} file")
                found[training, int(numbers[row])]["near_leak"] = verdict
        return found


def find_near(
    sketches: Sketches, threshold: float, asked: np.ndarray, remembered: np.ndarray
) -> dict[int, Near]:
    """Finds rows that are near to an earlier one.

    Args:
        sketches: The rows, in order.
        threshold: The share of runs of five words, of all that two rows have together, that both
            must have: their Jaccard similarity, estimated with a deviation of about 0.03.
        asked: (rows,), the rows that are compared with earlier ones.
        remembered: (rows,), the rows that later ones are compared with, unless they are near to
            one themselves.
    """
    shared = np.zeros(sketches.bands.shape, dtype=bool)
    for band, column in enumerate(sketches.bands.T):
        order = np.argsort(column, kind="stable")
        same = column[order[1:]] == column[order[:-1]]
        shared[order[1:], band] |= same
        shared[order[:-1], band] |= same
    buckets: dict[tuple[int, int], deque[int]] = defaultdict(lambda: deque(maxlen=MOST_COMPARED))
    found: dict[int, Near] = {}
    for row in map(int, np.flatnonzero(shared.any(1))):
        places = [
            (int(band), int(sketches.bands[row, band])) for band in np.flatnonzero(shared[row])
        ]
        if asked[row]:
            others = sorted({other for place in places for other in buckets[place]})
            if near := _nearest(sketches.hashes, row, np.array(others, dtype=int), threshold):
                found[row] = near
                continue
        if remembered[row]:
            for place in places:
                buckets[place].append(row)
    return found


def bands(threshold: float) -> int:
    """The fewest bands that find 99 of 100 pairs just at the threshold.

    A pair of similarity s agrees in one of b bands of r hashes with a chance of 1 - (1 - s^r)^b.
    """
    count = 1
    while 1 - (1 - threshold ** (PERMUTATIONS // count)) ** count < 0.99 and count < PERMUTATIONS:
        count *= 2
    return count


def _nearest(hashes: np.ndarray, row: int, others: np.ndarray, threshold: float) -> Near | None:
    if not len(others):
        return None
    alike = (hashes[others] == hashes[row]).mean(1)
    similarities = (alike - 1 / 256) / (1 - 1 / 256)  # bytes are also alike by chance
    best = int(similarities.argmax())
    if similarities[best] < threshold:
        return None
    return Near(int(others[best]), float(similarities[best]))


def _runs(conversation: Conversation) -> list[str]:
    text = "\n".join(
        message["content"] + (message["tool_calls"] or "")
        for message in (*conversation.messages, *conversation.rejected)
    )
    words = WORD.findall(text.casefold())
    return [" ".join(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))]
