"""What orchestration costs: the same job bare, and as a deployment's run on the stack.

    python -m benchmarks.overhead [--epochs 1 10] [--rounds 3] [--json]

Bare, a plain Python process calls the library as the tasks do: sanitize, tokenize, train and
evaluate each in a child process, and choose; there is no Prefect, no MLflow and nothing registered.
The other is a run of the deployment `finetune/cpu` on a stack of its own with its usual settings,
from the moment that Prefect is asked for it to its end: the worker finds it, starts its process,
and the flow tells Prefect and MLflow what happens and registers the model. Both begin with empty
caches, in turns, a short training and a longer one; their losses must be the same.

What the short one costs is fixed: it is paid once a job. What the longer one costs beyond that is
for each second of training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import measure
from benchmarks.stack import BASE, HELD_OUT, ORGANIZATION, ROWS, Others, Stack, stack

AIM_SECONDS, AIM_PERCENT = 8, 1
POLL_SECONDS = 0.5
EVALUATED = 8  # rows on which base and model generate: the same work on both sides
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # as the deployment has it
BARE, FLOW = "bare", "flow"


def main() -> None:
    """Measures and prints the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, nargs=2, default=(1, 10), help="short and longer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds, for a quiet machine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(bare(arguments.work)))
        return
    with stack() as found:
        found.up()
        results = compete(found, arguments)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results, arguments)


def compete(found: Stack, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs both in turns, the short training and the longer one."""
    from finetune_core.config.pipeline import PipelineConfig

    runs = []
    others = Others(found.home)
    for number in range(arguments.rounds):
        for count in arguments.epochs:
            config = PipelineConfig.parse(
                {
                    "model": {"name": str(BASE)},
                    "dataset": {"path": str(ROWS), "validation_path": str(HELD_OUT)},
                    "training": {"epochs": count},
                    "evaluation": {"num_samples": EVALUATED},
                    "registry": {"model_name": "overhead"},
                }
            )
            sys.stderr.write(f"round {number + 1}, {count} epochs\n")
            with tempfile.TemporaryDirectory() as folder:
                config.to_yaml(Path(folder) / "config.yaml")
                others.wait(arguments.patience)
                alone = measure("benchmarks.overhead", ["--work", folder], NO_GPU).result
            alone["others"] = others.share()
            others.wait(arguments.patience)
            orchestrated = flow(found, config)
            orchestrated["others"] = others.share()
            if alone["loss"] != orchestrated["loss"]:
                raise SystemExit(f"not the same training: {alone} and {orchestrated}")
            runs.append({"epochs": count, BARE: alone, FLOW: orchestrated})
    return {
        "trainings": [
            _summary([run for run in runs if run["epochs"] == n]) for n in arguments.epochs
        ]
    }


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of one training's rounds; costs are taken round by round."""
    costs = [run[FLOW]["seconds"] - run[BARE]["seconds"] for run in runs]
    parts = runs[0][FLOW]["parts"]
    return {
        "epochs": runs[0]["epochs"],
        "loss": runs[0][BARE]["loss"],
        "bare_s": statistics.median(run[BARE]["seconds"] for run in runs),
        "flow_s": statistics.median(run[FLOW]["seconds"] for run in runs),
        "cost_s": statistics.median(costs),
        "cost_s_rounds": costs,
        "others": {
            who: statistics.median(run[who]["others"] for run in runs) for who in (BARE, FLOW)
        },
        "parts_s": {
            name: statistics.median(
                run[FLOW]["parts"][name] - run[BARE]["parts"].get(name, 0) for run in runs
            )
            for name in parts
        },
    }


def show(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Prints the table."""
    short, longer = results["trainings"]
    table = Table(title=f"what orchestration costs, medians of {arguments.rounds} rounds")
    for column in ("", f"{short['epochs']} epochs", f"{longer['epochs']} epochs"):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, *values: float, unit: str = "s") -> None:
        table.add_row(name, *(f"{value:.1f} {unit}" for value in values))

    both = (short, longer)
    row("bare", *(each["bare_s"] for each in both))
    row("through the flow", *(each["flow_s"] for each in both))
    row("cost", *(each["cost_s"] for each in both))
    row("", *(100 * each["cost_s"] / each["bare_s"] for each in both), unit="%")
    table.add_row(
        "rounds", *(" ".join(f"{one:.1f}" for one in each["cost_s_rounds"]) for each in both)
    )
    for who in (BARE, FLOW):
        row(f"others, {who}", *(100 * each["others"][who] for each in both), unit="%")
    table.add_section()
    for name in short["parts_s"]:
        row(name, *(each["parts_s"][name] for each in both))
    console = Console(width=110)
    console.print(table)
    seconds = longer["bare_s"] - short["bare_s"]
    beyond = longer["cost_s"] - short["cost_s"]
    console.print(
        f"Beyond the fixed cost: {beyond:.1f} s in {seconds:.1f} s more, {beyond / seconds:.1%}. "
        f"Aim: {AIM_SECONDS} s fixed, {AIM_PERCENT} % beyond.\n"
        "Others: what other programs took of the cores. Below the line: what each part took "
        "longer than bare."
    )


def bare(folder: Path) -> dict[str, Any]:
    """A job without its orchestration, in a folder with its `config.yaml`."""
    start = time.time()
    from finetune_core import child
    from finetune_core.config.pipeline import PipelineConfig
    from finetune_core.data.sanitize import SanitizeRequest
    from finetune_core.data.tokenize import TokenizeRequest
    from finetune_core.evaluation.request import EvaluateRequest
    from finetune_core.trainers.checkpoints import choose
    from finetune_core.trainers.request import TrainRequest
    from finetune_core.trainers.supervise import supervise
    from finetune_core.types import CleanData, EvaluationReport, TokenizedData

    config = PipelineConfig.from_yaml(folder / "config.yaml")
    logs = folder / "logs"
    clock = [time.time()]
    clean = child.run(
        "finetune_core.data.sanitize:sanitize",
        SanitizeRequest(dataset=config.dataset, cache=folder / "data"),
        CleanData,
        folder=logs,
    )
    clock.append(time.time())
    tokens = child.run(
        "finetune_core.data.tokenize:tokenize",
        TokenizeRequest.for_model(
            config.model,
            config.tokenization,
            clean=clean,
            sanitize=config.dataset.sanitize,
            cache=folder / "tokens",
        ),
        TokenizedData,
        folder=logs,
    )
    clock.append(time.time())
    request = TrainRequest(
        tokens=tokens,
        model=config.model,
        training=config.training,
        lora=config.lora,
        output=folder / "checkpoints",
    )
    trained = supervise(request, folder=logs, on_event=lambda event: None)
    clock.append(time.time())
    chosen = choose(trained, folder / "adapter")
    clock.append(time.time())
    child.run(
        "finetune_core.evaluation.evaluate:evaluate",
        EvaluateRequest(
            tokens=tokens,
            chosen=chosen,
            model=config.model,
            method=config.training.method,
            evaluation=config.evaluation,
            output=folder / "report",
        ),
        EvaluationReport,
        folder=logs,
    )
    clock.append(time.time())
    stages = ("sanitize", "tokenize", "train", "checkpoint", "evaluate")
    return {
        "seconds": clock[-1] - start,
        "loss": trained.train_loss,
        "parts": {name: clock[at + 1] - clock[at] for at, name in enumerate(stages)},
    }


def flow(found: Stack, config: Any) -> dict[str, Any]:
    """The same job as a run of the deployment."""
    from pydantic import SecretStr

    from finetune_core.child import EventFile
    from finetune_core.types import new_job_id
    from finetune_service.jobs.prefect_client import PrefectClient
    from finetune_service.jobs.scheduler import STATUSES, Scheduler
    from finetune_service.jobs.states import FINAL

    folder = found.home / "organizations" / ORGANIZATION
    shutil.rmtree(folder / "cache", ignore_errors=True)
    client = PrefectClient(found.prefect, SecretStr(found.prefect_auth))
    job_id = new_job_id()
    start = time.time()
    run_id = Scheduler(client, "finetune/cpu").submit(job_id, ORGANIZATION, config)
    run: dict[str, Any] = {}
    while STATUSES.get(run.get("state_type", "")) not in FINAL:
        time.sleep(POLL_SECONDS)
        run = client.get(f"/flow_runs/{run_id}")
    if run["state_type"] != "COMPLETED":
        raise SystemExit(f"the run has ended as {run['state']}")
    end = datetime.fromisoformat(run["end_time"].replace("Z", "+00:00")).timestamp()
    events = [event for event, _ in EventFile(folder / "jobs" / job_id / "events.jsonl").read()]
    began = {
        each["data"]["stage"]: each["time"] for each in events if each["name"] == "stage_began"
    }
    ended = {each["data"]["stage"]: each for each in events if each["name"] == "stage_ended"}
    stages = {name: ended[name]["time"] - began[name] for name in began}
    first = events[0]["time"]
    pending = datetime.fromisoformat(run["start_time"].replace("Z", "+00:00")).timestamp()
    return {
        "seconds": end - start,
        "loss": ended["train"]["data"]["train_loss"],
        "parts": {
            "until its process runs": pending - start,
            "until the job begins": first - pending,
            **stages,
            "between stages": end - first - sum(stages.values()),
        },
    }


if __name__ == "__main__":
    main()
