"""MinHash signatures: finds rows nearly the same without comparing each with each."""

from __future__ import annotations

import re

from rensa import RMinHash, RMinHashLSH

from finetune_core.data.formats import Message

PERMUTATIONS = 128
RUN = 5  # words; as Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better"
# Signs count as words, or `a < b` and `a > b` were the same; where a script puts no spaces between
# words (Thai, Lao, Japanese, Chinese), each letter counts.
WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")


class Signatures:
    """Remembers 128 hashes of each row, by which it finds earlier rows that are nearly the same.

    Args:
        threshold: The share of runs of five words, of all that two rows have together, that both
            must have (their Jaccard similarity, estimated with a deviation of about 0.03).
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = RMinHashLSH(threshold, PERMUTATIONS, _bands(threshold))
        self._known: dict[int, RMinHash] = {}

    def nearest(self, messages: list[Message]) -> tuple[int, float] | None:
        """The number of the most similar earlier row and its similarity, where it is enough."""
        return self._nearest(_signature(messages))

    def add(self, number: int, messages: list[Message]) -> None:
        """Remembers a row."""
        self._add(number, _signature(messages))

    def nearest_or_add(self, number: int, messages: list[Message]) -> tuple[int, float] | None:
        """As `nearest`; a row that is near none is remembered."""
        signature = _signature(messages)
        found = self._nearest(signature)
        if found is None:
            self._add(number, signature)
        return found

    def _nearest(self, signature: RMinHash) -> tuple[int, float] | None:
        near = [
            (number, self._known[number].jaccard(signature))
            for number in self._index.query(signature)
        ]
        best = max(near, key=lambda each: (each[1], -each[0]), default=None)
        return best if best and best[1] >= self._threshold else None

    def _add(self, number: int, signature: RMinHash) -> None:
        self._index.insert(number, signature)
        self._known[number] = signature


def _signature(messages: list[Message]) -> RMinHash:
    text = "\n".join(message["content"] + (message["tool_calls"] or "") for message in messages)
    words = WORD.findall(text.casefold())
    signature = RMinHash(PERMUTATIONS, 1)
    signature.update([" ".join(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))])
    return signature


def _bands(threshold: float) -> int:
    """The fewest bands that find 99 of 100 pairs just at the threshold.

    A pair of similarity s agrees in one of b bands of r hashes with a chance of 1 - (1 - s^r)^b.
    """
    bands = 1
    while 1 - (1 - threshold ** (PERMUTATIONS // bands)) ** bands < 0.99 and bands < PERMUTATIONS:
        bands *= 2
    return bands
