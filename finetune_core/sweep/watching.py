"""Watching a running trial: what its job says is reported to the study, which may have it stopped.

It goes by the job's events, which any process of any machine can read that shares the folder.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_core.child import EventFile
from finetune_core.sweep.sweep import Sweep

LOOKING_SECONDS = 0.2

log = logging.getLogger(__name__)


class Watch:
    """Watches one trial.

    Args:
        sweep: The sweep.
        number: The trial's.
    """

    def __init__(self, sweep: Sweep, number: int) -> None:
        self.tokenized = False
        self._sweep, self._number = sweep, number
        self._events = EventFile(sweep.job(number).events)
        self._offset = 0
        values = sweep.study.trial(number).values
        self._epochs = sweep.trial_config(values).training.epochs

    def look(self) -> bool:
        """Reports what is new; says, once, that the trial is to be stopped.

        One that has trained to its end is measured, good or bad: most of its cost is paid.
        """
        stop = False
        for event, behind in self._events.read(self._offset):
            self._offset = behind
            name, data = event.get("name"), event.get("data") or {}
            if name == "stage_ended" and data["stage"] == "tokenize":
                self.tokenized = True
            elif name == "validation" and data["epoch"] < self._epochs:
                study = self._sweep.study
                stop |= study.report(self._number, data["epoch"], data["valid_loss"])
        return stop


@contextmanager
def watching(sweep: Sweep, number: int, stop: Callable[[], None]) -> Iterator[None]:
    """Watches a trial from a thread while the block lasts.

    Args:
        sweep: The sweep; nobody else asks its study meanwhile.
        number: The trial's.
        stop: Is called when the trial is to be stopped.
    """
    watch, over = Watch(sweep, number), threading.Event()

    def look() -> None:
        while not over.wait(LOOKING_SECONDS):
            try:
                if watch.look():
                    stop()
            except Exception:  # a trial that is not watched is a trial all the same
                log.exception("trial %d is not watched any more", number)
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
