"""Control: what is asked of a job from outside, as files in its folder.

Touching a file asks; who has done what was asked removes it. So a wish outlives everybody who was
told of it, and one that is made twice, or too early, does no harm.

Each process that goes on with the job is an attempt, with a file of its number. Of two, the one of
the higher number goes on, wherever they are; the other was taken for dead, and has to give up.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from finetune_core.exceptions import JobSupersededError


class Wish(str, Enum):
    """What may be asked of a training between two steps.

    give_up: end at once, and write nothing; a later attempt asks by being there. pause: save a
    checkpoint, and end so that the training can go on. hand_back: likewise, to go on by itself.
    checkpoint: save one.
    """

    GIVE_UP = "give_up"
    PAUSE = "pause"
    HAND_BACK = "hand_back"
    CHECKPOINT = "checkpoint"


class Control:
    """What is asked of one job.

    Args:
        folder: Holds a file for each wish and each attempt; it is made by the first.
        attempt: The number of the attempt that listens; none where somebody only asks.
    """

    def __init__(self, folder: Path, attempt: int = 0) -> None:
        self._folder = folder
        self._attempt = attempt

    def begin_attempt(self) -> int:
        """Takes the job over: from now on, all attempts before are to give up.

        Returns:
            The attempt's number, which nobody else has.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        number = self.last_attempt() + 1
        while True:
            try:
                self._file(number).touch(exist_ok=False)
            except FileExistsError:
                number += 1
                continue
            return number

    def last_attempt(self) -> int:
        """The number of the last attempt, 0 where there was none."""
        numbers = (path.name.partition("-")[2] for path in self._folder.glob("attempt-*"))
        return max((int(number) for number in numbers), default=0)

    def check(self) -> None:
        """Makes sure, before something is written, that no later attempt has taken the job over.

        Raises:
            JobSupersededError: One has.
        """
        if self.asked() is Wish.GIVE_UP:
            raise JobSupersededError(
                f"attempt {self.last_attempt()} goes on with the job; this one, {self._attempt}, "
                "was taken for dead"
            )

    def ask(self, wish: Wish) -> None:
        """Asks, if that has not been done."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / wish.value).touch()

    def asked(self) -> Wish | None:
        """What is asked; of several, what comes first among the wishes does for the others."""
        if self._attempt and self._file(self._attempt + 1).exists():
            return Wish.GIVE_UP
        return next((wish for wish in Wish if (self._folder / wish.value).exists()), None)

    def done(self, wish: Wish) -> None:
        """Takes a wish for fulfilled, or back."""
        (self._folder / wish.value).unlink(missing_ok=True)

    def _file(self, attempt: int) -> Path:
        return self._folder / f"attempt-{attempt}"
