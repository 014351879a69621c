"""Disturbs jobs and says what came of it.

One stack; a job that nothing happens to; then one job after the other, each with one fault at a
random moment of its life. All must end as if nothing had happened, and with the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.experiment import LIMIT_SECONDS, Moment, Result, disturbed, undisturbed
from tests.chaos.faults import FAULTS, known
from tests.chaos.lab import Lab, lab

EPOCHS = 5  # of 12 steps each
WIDTH = 130


@dataclass(frozen=True)
class Plan:
    """What a run is to be: its number, its fault, and the part of a job's life at which it hits."""

    number: int
    fault: str
    share: float


def main() -> int:
    """Runs the suite; stopped by a signal, it tells what it has.

    Returns:
        0 where all jobs have recovered, else 1.
    """
    arguments = _parser().parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for number in (signal.SIGINT, signal.SIGTERM):  # which a script's background job ignores
        signal.signal(number, signal.default_int_handler)
    results: list[Result] = []
    complete = False
    with suppress(KeyboardInterrupt), lab() as running:
        faults = arguments.faults or known(running)
        if missing := sorted(set(faults) - set(known(running))):
            sys.stderr.write(f"error: {', '.join(missing)}: only root may mount a small disk\n")
            return 2
        _run(running, arguments, faults, results)
        complete = True
    Console(width=WIDTH).print(table(results))
    return 0 if complete and all(each.recovered for each in results) else 1


def planned(seed: int, faults: list[str], number: int) -> Plan:
    """One of the runs of a seed: each fault comes as often as any other, in a random order."""
    turn, place = divmod(number, len(faults))
    order = random.Random(f"{seed} {turn}").sample(faults, len(faults))
    return Plan(number, order[place], random.Random(f"{seed} {number} moment").random())


def table(results: list[Result]) -> Table:
    """What came of the faults, a row each."""
    found = Table(title="One fault a job, at a random moment of its life")
    found.add_column("fault", no_wrap=True)
    for column in ("runs", "hit", "recovered", "s to recover", "max", "steps redone", "max"):
        found.add_column(column, justify="right")
    found.add_column("same bytes", justify="right")
    found.add_column("brought back by", no_wrap=True)
    for name, fault in FAULTS.items():
        runs = [each for each in results if each.fault == name]
        if runs:
            found.add_row(name, *_figures(runs), fault.recovery)
    found.add_section()
    found.add_row("all", *_figures(results), "")
    return found


def _figures(runs: list[Result]) -> list[str]:
    hits = [each for each in runs if each.hit]
    seconds = [each.seconds for each in hits if each.seconds is not None]
    steps = [each.redone for each in hits]
    return [
        str(len(runs)),
        str(len(hits)),
        str(sum(each.recovered for each in runs)),
        f"{statistics.median(seconds):.1f}" if seconds else "",
        f"{max(seconds):.1f}" if seconds else "",
        f"{statistics.median(steps):g}" if steps else "",
        str(max(steps)) if steps else "",
        str(sum(each.identical for each in runs)),
    ]


def _run(
    running: Lab, arguments: argparse.Namespace, faults: list[str], results: list[Result]
) -> None:
    digests, seconds = undisturbed(running, EPOCHS, limit=arguments.limit)
    sys.stderr.write(f"undisturbed: {seconds:.1f} s\n")
    for number in range(arguments.runs) if arguments.only is None else [arguments.only]:
        plan = planned(arguments.seed, faults, number)
        result = disturbed(
            running,
            f"chaos-{number}",
            plan.fault,
            _after(plan.share * seconds),
            epochs=EPOCHS,
            digests=digests,
            limit=arguments.limit,
        )
        results.append(result)
        sys.stderr.write(f"{number:3}  {_line(plan, result, seconds)}\n")
        if not result.recovered:
            again = f"--seed {arguments.seed} --faults {','.join(faults)} --only {number}"
            for complaint in result.complaints:
                sys.stderr.write(f"       {complaint}\n")
            sys.stderr.write(f"       {result.kept}; again: python -m tests.chaos {again}\n")
        if arguments.json:
            found = {"seed": arguments.seed, "undisturbed_seconds": seconds}
            runs = [each.to_dict() for each in results]
            arguments.json.write_text(json.dumps({**found, "runs": runs}, indent=2))


def _line(plan: Plan, result: Result, seconds: float) -> str:
    at = f"at {plan.share * seconds:5.1f} s"
    if not result.hit:
        hit = "no victim"
    else:
        hit = f"back in {result.seconds or 0:5.1f} s, {result.redone} steps redone"
    word = "recovered" if result.recovered else "FAILED"
    return f"{plan.fault:<16} {at}  {word:<9}  {hit}, {result.took:.0f} s in all, {result.job}"


def _after(seconds: float) -> Moment:
    return lambda job: time.sleep(seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=60, help="how many jobs are disturbed")
    parser.add_argument("--seed", type=int, default=0, help="tells their faults and the moments")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_SECONDS, help="the seconds that a job may take"
    )
    parser.add_argument("--only", type=int, metavar="K", help="the run of that number alone")
    parser.add_argument(
        "--faults", type=_faults, help=f"only these, divided by commas: {', '.join(FAULTS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="gets all results")
    return parser


def _faults(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
