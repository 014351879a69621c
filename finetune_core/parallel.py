"""Works on the parts of something large in several processes, and gives results in order."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from finetune_core.exceptions import ChildDiedError

A = TypeVar("A")
B = TypeVar("B")

LARGE = 16 * 2**20  # bytes; below it, starting processes takes longer than the work
MOST_JOBS = 8  # one process reads and writes for all of them, and could not feed more


def in_order(function: Callable[[A], B], parts: Iterable[A], size: int) -> Iterator[B]:
    """Applies a function to each part.

    Args:
        function: What is done with a part; it and the parts can be pickled.
        parts: The parts; only a few are read before their results are taken.
        size: The bytes of all of them together, weighed by how slow the work is; it depends on
            them whether processes are worth it.

    Raises:
        ChildDiedError: A process was killed.
    """
    jobs = min(os.cpu_count() or 1, MOST_JOBS) if size >= LARGE else 1
    if jobs == 1:
        yield from map(function, parts)
        return
    from loky import ProcessPoolExecutor
    from loky.process_executor import TerminatedWorkerError

    pool = ProcessPoolExecutor(jobs, initializer=_end_with_parent, initargs=(os.getpid(),))
    waiting: deque[Future[B]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(function, part))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except TerminatedWorkerError as error:
        raise ChildDiedError(
            "a process that worked on the data was killed",
            hint="The kernel does so when memory runs out.",
        ) from error
    finally:
        pool.shutdown(kill_workers=True)


def _end_with_parent(parent: int) -> None:
    """Has this process end when its parent is gone; left to itself it would wait for minutes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
