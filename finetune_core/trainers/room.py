"""Room on the disk for a training's next checkpoint, which nobody else can take meanwhile."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from finetune_core.exceptions import DiskFullError
from finetune_core.storage import bytes_in, free_bytes, lacks_room
from finetune_core.trainers.checkpoints import Checkpoints

MARGIN = 1.25  # a checkpoint's log grows
LEAST = 2**20  # bytes, for manifest, record and the rests of blocks

log = logging.getLogger(__name__)


class Room:
    """Room for the next checkpoint, held by a file without a name beside the others.

    Such a file ends with its process, however that ends, and so never takes room for nothing. It is
    given up right before a save. Where there is no room, the training pauses.

    Args:
        checkpoints: Where the room is.
        estimate: The bytes of a checkpoint before there is one.
        first: Whether this process is the one that holds it, of several.
    """

    def __init__(self, checkpoints: Checkpoints, estimate: int, *, first: bool = True) -> None:
        self._checkpoints = checkpoints
        self._estimate = estimate
        self._first = first
        self._held: IO[bytes] | None = None

    def hold(self, step: int) -> None:
        """Takes the room for the next save.

        Args:
            step: The optimizer steps done.

        Raises:
            DiskFullError: There is not so much.
        """
        if not self._first:
            return
        self.release()
        needed = self._needed()
        self._check(step, needed)
        try:
            with ExitStack() as undo:
                held = undo.enter_context(tempfile.TemporaryFile(dir=self._checkpoints.folder))
                os.posix_fallocate(held.fileno(), 0, needed)
                undo.pop_all()
                self._held = held
        except OSError as error:
            if lacks_room(error):
                raise self._full(step, needed) from error
            log.warning("no room for the next checkpoint can be held here: %s", error)

    def release(self) -> None:
        """Gives the room back."""
        if self._held:
            self._held.close()
            self._held = None

    def use(self, step: int) -> None:
        """Gives the room to the save that comes next.

        Args:
            step: The optimizer steps done.

        Raises:
            DiskFullError: It does not suffice.
        """
        if self._first:
            self.release()
            self._check(step, self._needed())

    @contextmanager
    def watched(self, step: int) -> Iterator[None]:
        """Sees why a save fails; what is half-written is removed.

        Args:
            step: The optimizer steps done.

        Raises:
            DiskFullError: The disk is full.
        """
        try:
            yield
        except Exception as error:
            # torch, safetensors and tokenizers do not say it in a way that a program understands.
            if not (lacks_room(error) or free_bytes(self._checkpoints.folder) < LEAST):
                raise
            if self._first:
                self._checkpoints.clear_staging()
            raise self._full(step, self._needed()) from error

    def _needed(self) -> int:
        """The bytes that the next checkpoint may have: those of the last one, and some more."""
        saved = self._checkpoints.all()
        size = bytes_in(saved[-1].folder) if saved else self._estimate
        return int(MARGIN * size) + LEAST

    def _check(self, step: int, needed: int) -> None:
        if free_bytes(self._checkpoints.folder) < needed:
            raise self._full(step, needed)

    def _full(self, step: int, needed: int) -> DiskFullError:
        saved = self._checkpoints.all()
        last = f"the last checkpoint is that of step {saved[-1].step}" if saved else "none is saved"
        folder = self._checkpoints.folder
        return DiskFullError(
            f"paused at step {step}, as the disk has no room for a checkpoint: it needs "
            f"{_megabytes(needed)}, {_megabytes(free_bytes(folder))} are free in {folder}; {last}",
            hint="Free space on it, and resume the job.",
        )


def checkpoint_bytes(model: Any) -> int:
    """Estimates the bytes of a checkpoint: the trained weights, and AdamW's two moments of each."""
    trained = (weight for weight in model.parameters() if weight.requires_grad)
    return sum(3 * weight.numel() * weight.element_size() for weight in trained)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
