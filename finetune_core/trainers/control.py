"""Control: what is asked of a job from outside, as files in its folder.

Touching a file asks; who has done what was asked removes it. So a wish outlives everybody who was
told of it, and one that is made twice, or too early, does no harm.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path


class Wish(str, Enum):
    """What may be asked of a training between two steps.

    pause: save a checkpoint, and end so that the training can go on. checkpoint: save one.
    """

    PAUSE = "pause"
    CHECKPOINT = "checkpoint"


class Control:
    """What is asked of one job.

    Args:
        folder: Holds a file for each wish; it is made by the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ask(self, wish: Wish) -> None:
        """Asks, if that has not been done."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / wish.value).touch()

    def asked(self) -> Wish | None:
        """What is asked; a pause comes first, as it saves a checkpoint too."""
        return next((wish for wish in Wish if (self._folder / wish.value).exists()), None)

    def done(self, wish: Wish) -> None:
        """Takes a wish for fulfilled, or back."""
        (self._folder / wish.value).unlink(missing_ok=True)
