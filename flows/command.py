"""The command line of the finetune flow: flags and files → a config, and what a person sees."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finetune_core.config import PipelineConfig, Settings
from finetune_core.config.pipeline import read_mapping
from finetune_core.data.loading import find_files
from finetune_core.evaluation.metrics import check_modules
from finetune_core.exceptions import (
    Fault,
    FineTuneError,
    IncompatibleConfigError,
    InputError,
    InvalidConfigError,
    JobInterruptedError,
)
from finetune_core.hub.card import JobResult
from finetune_core.hub.gate import check_gate
from finetune_core.jobs import check_writable, find_config, jobs_folder
from finetune_core.models.tasks import find_tokenization
from finetune_core.storage import from_here
from finetune_core.types import DatasetSource, TrainingMethod, new_job_id
from flows import options


def run(
    config: options.Config = None,
    model: options.Model = None,
    task: options.ModelTask = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="The training file: JSON, JSONL, CSV, Parquet."),
    ] = None,
    hf_dataset: options.HubDataset = None,
    validation: options.Validation = None,
    evaluation: options.Evaluation = None,
    format: options.Format = None,  # noqa: A002 - it is the flag's name
    input_field: options.InputField = None,
    output_field: options.OutputField = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", help="Read only so many rows.")
    ] = None,
    max_length: options.MaxLength = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="lora, qlora, instruction_tuning or full_finetuning (all weights)."
        ),
    ] = None,
    four_bit: Annotated[bool, typer.Option("--4bit", help="qlora, on a base of 4 bits.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in 16-bit floats.")] = False,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    num_processes: Annotated[
        int | None, typer.Option("--num-processes", help="Processes that train together.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="What they share: ddp or fsdp.")
    ] = None,
    lora_rank: options.LoraRank = None,
    lora_alpha: options.LoraAlpha = None,
    lora_dropout: options.LoraDropout = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            "--target-modules", help="all-linear, names divided by commas, or a regular expression."
        ),
    ] = None,
    rslora: Annotated[
        bool, typer.Option("--rslora", help="Scale the adapter by the root of its rank.")
    ] = False,
    dora: Annotated[
        bool, typer.Option("--dora", help="Train magnitudes apart from directions.")
    ] = False,
    loraplus_ratio: Annotated[
        float | None, typer.Option("--loraplus-ratio", help="How much faster B learns than A.")
    ] = None,
    pissa: Annotated[
        bool, typer.Option("--pissa", help="Begin with the main directions of the weights.")
    ] = False,
    save_steps: Annotated[
        int | None, typer.Option("--save-steps", help="Steps between checkpoints.")
    ] = None,
    eval_steps: Annotated[
        int | None, typer.Option("--eval-steps", help="Steps between validations.")
    ] = None,
    seed: options.Seed = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder that gets one folder a job.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The job's and the registered model's name.")
    ] = None,
    organization: options.Organization = "local",
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with a job that stopped, by its id.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --resume, also after data or settings changed.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune a model, compare it with its base and register it."""
    flags: dict[str, dict[str, Any]] = {
        "model": {"name": model, "task": task, "quantization_bits": 4 if four_bit else None},
        "dataset": {
            "path": hf_dataset or dataset,
            "source": "hub" if hf_dataset else None,
            "validation_path": validation,
            "evaluation_path": evaluation,
            "format": format,
            "input_field": input_field,
            "output_field": output_field,
            "max_samples": max_samples,
        },
        "tokenization": {"max_length": max_length},
        "training": {
            "method": method or ("qlora" if four_bit else None),
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "num_processes": num_processes,
            "strategy": strategy,
            "precision": "fp16" if fp16 else None,
            "save_steps": save_steps,
            "eval_steps": eval_steps,
            "seed": seed,
            "output_dir": str(output) if output else None,
        },
        "lora": {
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "target_modules": _targets(target_modules) if target_modules else None,
            "use_rslora": rslora or None,
            "use_dora": dora or None,
            "loraplus_lr_ratio": loraplus_ratio,
            "initialization": "pissa" if pissa else None,
        },
        "registry": {"model_name": name},
    }

    def work() -> None:
        start = perf_counter()
        if four_bit and method not in (None, TrainingMethod.QLORA.value):
            raise IncompatibleConfigError([Fault("training.method", "--4bit is for qlora")])
        chosen = find_config(resume, organization, output) if resume else read_config(config, flags)
        _check(chosen, organization)
        result = _finetune(chosen, organization, resume or new_job_id(), force)
        seconds = perf_counter() - start
        if as_json:
            print_json(summary_of(result, seconds))
        else:
            print_result(result, seconds)

    report_errors(work, as_json=as_json)


def report_errors(work: Callable[[], None], *, as_json: bool) -> None:
    """Runs a command's work and ends the process with the exit code that its error has.

    Args:
        work: What the command does.
        as_json: Whether the error is also wanted as an object on standard output.
    """
    log_file = _log_to_file()
    os.environ["FINETUNE_PROGRESS"] = "true"
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        work()
        return
    except FineTuneError as error:
        failure = error
    except KeyboardInterrupt:
        failure = JobInterruptedError("interrupted")
    except Exception as error:
        logging.getLogger(__name__).exception("unexpected")
        failure = FineTuneError(
            f"{type(error).__name__}: {error}", hint=f"The log has the whole story: {log_file}"
        )
    console.print(f"error: {failure}")
    if as_json:
        status = "interrupted" if isinstance(failure, JobInterruptedError) else "failed"
        print_json({"status": status, "error": failure.to_dict()})
    raise typer.Exit(failure.exit_code)


def main() -> None:
    """Runs the command."""
    typer.run(run)


def read_config(file: Path | None, flags: dict[str, dict[str, Any]]) -> PipelineConfig:
    """The config of a file with the given flags over it; a flag that is None was not given."""
    values = read_mapping(file) if file else {}
    for section, fields in flags.items():
        given = {name: value for name, value in fields.items() if value is not None}
        known = values.get(section) or {}
        if not isinstance(known, dict):
            raise InvalidConfigError([Fault(section, "must be a mapping")], source=str(file))
        if given:
            values[section] = {**known, **given}
    values.setdefault("dataset", {})
    return PipelineConfig.parse(values, source=str(file) if file else None)


def _targets(flag: str) -> str | list[str]:
    """Modules as a person names them: in words divided by commas, or by an expression."""
    if flag == "all-linear" or not re.fullmatch(r"[\w.,-]+", flag):
        return flag
    return flag.split(",")


def _check(config: PipelineConfig, organization: str) -> None:
    """Finds at once what would otherwise be found only when Prefect has started.

    Raises:
        InputError: The dataset, the model or the output folder is not there, or the model cannot
            do what it shall.
    """
    dataset = config.dataset
    local = dataset.source is DatasetSource.LOCAL_FILE  # what a hub has is fetched in its stage
    for path in (dataset.path if local else None, dataset.validation_path, dataset.evaluation_path):
        if path is not None:
            find_files(Path(path))
    find_tokenization(config.tokenization, config.model)
    check_modules(config.evaluation.metrics or ())
    check_gate(config.registry.gate)
    check_writable(jobs_folder(organization, config.training.output_dir))


def _finetune(config: PipelineConfig, organization: str, job_id: str, force: bool) -> JobResult:
    from flows.finetune import finetune

    _log_to_file()  # again: importing Prefect has put its own handlers in place
    with going_on(job_id, config.training.output_dir):
        return finetune(config, organization, job_id, force)


@contextmanager
def going_on(job_id: str, folder: Path | None) -> Iterator[None]:
    """Says how a job goes on that stops for no fault of the input.

    Args:
        job_id: The job.
        folder: That of its jobs, where it is not the organisation's own.
    """
    again = f"--resume {job_id}{f' --output {folder}' if folder else ''}"
    try:
        yield
    except InputError:
        raise
    except FineTuneError as error:
        error.hint = f"{error.hint or ''}\nWhat is done is kept; go on by {again}".strip()
        raise
    except KeyboardInterrupt:
        raise JobInterruptedError(f"interrupted; what is done is kept, go on by {again}") from None


def _log_to_file() -> Path:
    """Sends what libraries log, Prefect's lines among it, to a file and not to the person."""
    file = Settings().home.expanduser() / "logs" / "finetune.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(file, maxBytes=10_000_000, backupCount=3)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    return file


def summary_of(result: JobResult, seconds: float) -> dict[str, Any]:
    """What a program is told of a job that has succeeded."""
    return {
        "status": "completed",
        "job_id": result.job.id,
        "run_id": result.registered.run_id,
        "model_name": result.registered.model_name,
        "model_version": result.registered.version,
        "ref": result.registered.ref,
        "aliases": result.registered.aliases,
        "adapter_dir": str(result.chosen.folder),
        "metrics": result.report.tuned,
        "base_metrics": result.report.base,
        "trained_tokens": result.trained.trained_tokens,
        "duration_s": round(seconds, 3),
        "stages": {
            verb: {"seconds": round(record.seconds, 3), "cached": record.cached}
            for verb, record in result.stages.items()
        },
    }


def print_json(value: dict[str, Any]) -> None:
    """Prints what a machine reads."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_result(result: JobResult, seconds: float) -> None:
    """What a person is told of a job that has succeeded."""
    from finetune_core.evaluation.report import comparison
    from finetune_core.hub import open_hub

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title="held-out rows")
    table.add_column("metric")
    for column in ("base", "tuned", "change"):
        table.add_column(column, justify="right")
    for row in comparison(result.report):
        table.add_row(*row)
    console.print(table)
    version = result.registered
    console.print(f"job         {result.job.id}, {seconds:.0f} s")
    console.print(f"adapter     {from_here(result.chosen.folder)}")
    console.print(f"registered  {version.ref} as {' and '.join(version.aliases)}")
    for check in version.gate.checks if version.gate else ():
        console.print(f"gate        {'passed' if check.passed else 'failed'}: {check.detail}")
    console.print(f"compare     {open_hub(result.job.organization).look()}")
