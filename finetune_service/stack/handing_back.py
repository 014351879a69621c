"""Handing back: jobs whose worker stops save a checkpoint and end, and go on later on any worker.

Run as a program, it asks the jobs of a container that is about to be stopped, and waits for them.
"""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Iterable, Mapping, Sequence

import psutil  # type: ignore[import-untyped]

from finetune_service.jobs.prefect_client import PREFECT_ERRORS
from finetune_service.stack.prefect_api import PrefectApi
from finetune_service.stack.processes import (
    all_ended,
    by_run,
    catches,
    end,
    of_runs,
    others,
    send,
    wait_until,
)

Runs = Mapping[str, Sequence[psutil.Process]]

log = logging.getLogger(__name__)


def hand_back(runs: Runs, prefect: PrefectApi, seconds: float) -> None:
    """Has jobs end here, and their flow runs begin anew on some worker.

    A Prefect that does not answer keeps no job from ending: its run is found lost later.

    Args:
        runs: The processes of each flow run, by its id.
        prefect: Is told of those that could not tell it themselves.
        seconds: How long they may take to save a checkpoint.
    """
    ask(runs, seconds)
    end(of_runs(runs))
    hand_back_runs(runs, prefect)


def hand_back_runs(ids: Iterable[str], prefect: PrefectApi) -> None:
    """Has flow runs that have lost their process begin anew, where they have not ended."""
    for run in ids:
        try:
            log.info("flow run %s is %s", run, prefect.hand_back(run))
        except PREFECT_ERRORS as error:
            log.warning("flow run %s is not handed back: %s", run, error)


def ask(runs: Runs, seconds: float) -> None:
    """Asks jobs to save a checkpoint and to end, and waits until they have or the time is over.

    Another flow, or one that has only begun, does not know the signal, and has nothing to save.

    Args:
        runs: The processes of each flow run, by its id.
        seconds: How long they may take.
    """
    asked: list[psutil.Process] = []
    for run, family in runs.items():
        if hearing := [process for process in family if catches(process, signal.SIGUSR1)]:
            log.info("flow run %s is asked to save a checkpoint and to end", run)
            send(min(hearing, key=psutil.Process.create_time), signal.SIGUSR1)
            asked += family
    wait_until(lambda: all_ended(asked), seconds)


def main() -> None:
    """Asks the jobs of this container, and waits for them."""
    parser = argparse.ArgumentParser(description="Has the jobs of this container handed back.")
    parser.add_argument("--seconds", type=float, required=True, help="how long they may take")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ask(by_run(others()), parser.parse_args().seconds)


if __name__ == "__main__":
    main()
