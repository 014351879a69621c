"""finetune-cli text-to-sql: a database and questions with gold SQL → a tuned model."""

from __future__ import annotations

import re
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finetune_core import child
from finetune_core.config import PipelineConfig
from finetune_core.data.loading import find_files
from finetune_core.exceptions import (
    Fault,
    IncompatibleConfigError,
    InvalidConfigError,
    MissingConfigError,
)
from finetune_core.jobs import organization_folder
from finetune_core.models.tasks import find_tokenization
from finetune_core.storage import check_free, from_here
from finetune_core.text_to_sql.questions import table_of
from finetune_core.types import new_job_id
from finetune_service.jobs.providers import (
    PROVIDERS,
    Finetuning,
    FinetuningRequest,
    FinetuningStorage,
    follow,
    open_provider,
)
from flows import options
from flows.command import going_on, print_json, print_result, read_config, report_errors, summary_of

if TYPE_CHECKING:
    from finetune_core.text_to_sql.dataset import SqlDataset

NAMED = re.compile(r"([^=:/]+)=(.+)")  # NAME=URL, and no URL that has a = in it


def text_to_sql(
    config: options.Config = None,
    database: Annotated[
        list[str] | None,
        typer.Option(
            "--database",
            help="sqlite:///FILE or postgresql://USER@HOST/NAME, or NAME=URL; several by repeating."
            " A password is read from PGPASSWORD or ~/.pgpass.",
        ),
    ] = None,
    metadata: Annotated[
        list[Path] | None,
        typer.Option(
            "--metadata",
            help="A JSON file that says what columns mean, called as its database is.",
        ),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(
            "--questions",
            "-q",
            help="Questions with gold SQL: CSV, JSONL, or table:NAME for one of the database.",
        ),
    ] = None,
    validation: Annotated[
        str | None, typer.Option("--validation", help="Questions that are held out.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--evaluation", help="Questions to compare base and tuned on.")
    ] = None,
    model: options.Model = None,
    dialect: Annotated[
        str | None,
        typer.Option("--dialect", help="The gold SQL's, where it is not the database's."),
    ] = None,
    serializer: Annotated[
        str | None,
        typer.Option("--serializer", help="create_table, compact, markdown; else what fits."),
    ] = None,
    schema_tokens: Annotated[
        int | None, typer.Option("--schema-tokens", help="The tokens that a schema may have.")
    ] = None,
    sample_rows: Annotated[
        int | None, typer.Option("--sample-rows", help="The rows of each table that are shown.")
    ] = None,
    mask: Annotated[
        bool | None,
        typer.Option("--mask/--no-mask", help="Mask personal data in what is shown of rows."),
    ] = None,
    input_field: options.InputField = None,
    output_field: options.OutputField = None,
    max_length: options.MaxLength = None,
    method: Annotated[
        str | None, typer.Option("--method", help="lora, qlora or full_finetuning.")
    ] = None,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    batch_size: options.BatchSize = None,
    lora_rank: options.LoraRank = None,
    seed: options.Seed = None,
    name: Annotated[str | None, typer.Option("--name", help="The registered model's name.")] = None,
    dataset_only: Annotated[
        Path | None,
        typer.Option("--dataset-only", help="Only make the dataset, in this new folder."),
    ] = None,
    deployment: Annotated[
        str | None, typer.Option("--deployment", help="Have a worker train: finetune/cpu.")
    ] = None,
    provider: Annotated[
        str, typer.Option("--provider", help=f"Who trains: {', '.join(PROVIDERS)}.")
    ] = "local",
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Where the provider openai is.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="A tokenizer's folder, to count as the provider does."),
    ] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Fine-tune a model to write SQL for a database, and measure it by executing what it writes."""
    from flows.text_to_sql import text_to_sql as run  # Prefect brings its own log lines

    flags: dict[str, dict[str, Any]] = {
        "model": {"name": model},
        "dataset": {
            "path": questions,
            "validation_path": validation,
            "evaluation_path": evaluation,
            "input_field": input_field,
            "output_field": output_field,
        },
        "sql": {
            "dialect": dialect,
            "serializer": serializer,
            "schema_tokens": schema_tokens,
            "sample_rows": sample_rows,
            "mask_personal_data": mask,
        },
        "tokenization": {"max_length": max_length},
        "training": {
            "method": method,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "seed": seed,
        },
        "lora": {"lora_rank": lora_rank},
        "registry": {"model_name": name},
    }

    def work() -> None:
        start = perf_counter()
        if database or metadata:
            flags["sql"]["databases"] = _databases(database or [], metadata or [])
        chosen = read_config(config, flags)
        _check(chosen, provider, base_url, deployment)
        if dataset_only:
            _show_dataset(_build(chosen, dataset_only), as_json)
        elif provider != "local":
            request = FinetuningRequest(
                provider=provider,
                organization=organization,
                config=chosen,
                base_url=base_url,
                suffix=name,
                tokenizer=str(tokenizer) if tokenizer else None,
            )
            _show_finetuning(_have_trained(request), as_json)
        else:
            job_id = new_job_id()
            with going_on(job_id, chosen.training.output_dir):
                found = run(chosen, organization, job_id, deployment)
            if found.finetuned is None:
                _show_submitted(found.dataset, job_id, as_json)
            elif as_json:
                print_json(
                    {
                        **summary_of(found.finetuned, perf_counter() - start),
                        "dataset": found.dataset.model_dump(mode="json"),
                    }
                )
            else:
                print_result(found.finetuned, perf_counter() - start)

    report_errors(work, as_json=as_json)


def _databases(urls: list[str], files: list[Path]) -> list[dict[str, Any]]:
    """The databases of the flags, each with the metadata file that is called as it is."""
    from finetune_core.config.sql import DatabaseConfig

    found: list[dict[str, Any]] = []
    left = {file.stem: str(file) for file in files}
    for each in urls:
        named = NAMED.fullmatch(each)
        database = {"name": named[1], "url": named[2]} if named else {"url": each}
        try:
            title = DatabaseConfig.model_validate(database).title
        except ValueError:  # what is wrong is said with all else that is wrong
            title = ""
        if len(urls) == len(files) == 1:
            title = next(iter(left))
        found.append({**database, "metadata": left.pop(title, None)})
    return found + [{"metadata": file} for file in left.values()]


def _check(
    config: PipelineConfig, provider: str, base_url: str | None, deployment: str | None
) -> None:
    """Finds at once what would otherwise be found only when Prefect has started."""
    dataset = config.dataset
    for path in (dataset.path, dataset.validation_path, dataset.evaluation_path):
        if path is not None and not table_of(path):
            find_files(Path(path))
    if not config.sql.databases:
        raise MissingConfigError([Fault("sql.databases", "is required: name one by --database")])
    if provider == "local":
        find_tokenization(config.tokenization, config.model)
    if provider not in PROVIDERS:
        problem = f"must be one of {', '.join(PROVIDERS)} (got {provider!r})"
        raise InvalidConfigError([Fault("--provider", problem)])
    if provider == "local" and base_url:
        raise IncompatibleConfigError([Fault("--base-url", "is for the provider openai")])
    if provider != "local" and deployment:
        raise IncompatibleConfigError([Fault("--deployment", "is for the provider local")])


def _build(config: PipelineConfig, folder: Path) -> SqlDataset:
    from finetune_core.text_to_sql.dataset import BuildRequest, SqlDataset

    check_free(folder)
    if folder.is_dir():
        folder.rmdir()  # it is empty; the whole one takes its place
    request = BuildRequest(config=config, output=folder.absolute())
    logs = organization_folder("local") / "text_to_sql"
    return child.run("finetune_core.text_to_sql.dataset:build", request, SqlDataset, folder=logs)


def _have_trained(request: FinetuningRequest) -> Finetuning:
    """Has a provider train, and waits until it has."""
    root = organization_folder(request.organization) / "finetunings"
    storage = FinetuningStorage.create(root, request)
    provider = open_provider(storage)
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print(f"{storage.folder.name}: making the dataset")
    provider.create_finetuning_dataset()
    console.print(f"{storage.folder.name}: uploading it")
    provider.create_fine_tuning_job()

    def tell(found: Finetuning) -> None:
        console.print(f"{found.job_id}: {found.status.value}")

    return follow(provider, tell)


def _show_dataset(data: SqlDataset, as_json: bool) -> None:
    from finetune_core.text_to_sql.report import WORDS, reasons, summary

    if as_json:
        refused = [
            {"rule": rule, "questions": count, "first": first}
            for rule, count, first in reasons(data)
        ]
        print_json({**data.model_dump(mode="json"), "refused": refused})
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{summary(data)}; schemas as {data.serializer}, rows of {data.longest:,} tokens")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("refused", "questions", "the first"):
        table.add_column(column)
    for rule, count, first in reasons(data):
        table.add_row(WORDS.get(rule, rule), str(count), first)
    if table.row_count:
        console.print(table)
    console.print(f"rows    {from_here(data.train)}")
    console.print(f"ledger  {from_here(data.ledger)}")


def _show_submitted(data: SqlDataset, job_id: str, as_json: bool) -> None:
    from finetune_core.text_to_sql.report import summary

    if as_json:
        print_json({"job_id": job_id, "dataset": data.model_dump(mode="json")})
    else:
        Console(highlight=False, soft_wrap=True).print(f"{summary(data)}\njob  {job_id}")


def _show_finetuning(found: Finetuning, as_json: bool) -> None:
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        console = Console(highlight=False, soft_wrap=True, markup=False)
        console.print(f"job     {found.job_id}, {found.status.value}")
        if found.error:
            console.print(f"error   {found.error}")
        if found.fine_tuned_model:
            console.print(f"model   {found.fine_tuned_model}")
        for metric, value in found.metrics.items():
            console.print(f"{metric:<24} {value:.4f}")
    if found.status.value not in ("succeeded", "paused"):
        raise typer.Exit(1)
