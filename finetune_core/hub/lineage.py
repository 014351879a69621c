"""The lineage card: from what a version was made, so that it can be checked and made again.

`card.json` lies beside the adapter, names the sha256 of every other file there, and is itself
named by a tag of the version; the model card for people, README.md, is written from the same facts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sections import ModelConfig
from finetune_core.evaluation.intervals import SEED
from finetune_core.exceptions import UnverifiedError, VersionNotFoundError
from finetune_core.hub.card import Card, code_version
from finetune_core.hub.ports import Hub, Version
from finetune_core.models.source import digest_model, find_model, revision_of
from finetune_core.storage import MANIFEST, digest_file, digest_json, write_json
from finetune_core.types import GateReport, Record, Verdict

CARD, SIGNATURE = "card.json", "card.sig"
ROWS = "rows.parquet"  # the digest of each row that it was made from
SERVED = "registered_model_meta"  # MLflow puts it beside a version that it serves
NO_CARD = "Only adapters and models that a job has registered have one."
OWN = (CARD, SIGNATURE, MANIFEST, SERVED)  # files that the card cannot name
CHAT_TEMPLATE = "chat_template.jinja"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors")


class BaseModelFacts(Record):
    """The base: its name, its revision, and the sha256 over its config and weights.

    `name` is as the config has it; `revision` is the commit where the hub gave it.
    """

    name: str
    revision: str | None
    digest: str


class DataFacts(Record):
    """The data: where it was, what it was, and what became of its rows.

    `measured_digest` is of the rows that the metrics are of.
    """

    path: str
    source: str
    source_digest: str
    clean_digest: str
    tokens_digest: str
    ledger_digest: str
    measured_digest: str
    format: str
    rows: int
    kept: int
    changed: int
    dropped: int
    train_rows: int
    held_out_rows: int


class Environment(Record):
    """On what it was made."""

    python: str
    platform: str
    processor: str
    gpus: list[str]
    device: str
    precision: str
    packages: dict[str, str]


class Lineage(Record):
    """Everything from which a version was made, and what came of it.

    `combined` are the versions of which it was made, where it was not trained.
    """

    schema_version: int = 1
    model_name: str
    job_id: str
    kind: str
    base: BaseModelFacts
    data: DataFacts
    tokenizer_digest: str
    template: str
    template_digest: str
    config: dict[str, Any]
    config_digest: str
    code_version: str
    environment: Environment
    seeds: dict[str, int]
    combined: list[str]
    steps: int
    trained_tokens: int
    checkpoint_step: int
    checkpoint_digest: str
    base_metrics: dict[str, float]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    gate: Verdict | None
    files: dict[str, str]

    @property
    def weights(self) -> dict[str, str]:
        """The sha256 of each file of weights."""
        return {name: digest for name, digest in self.files.items() if is_weights(name)}

    def pipeline_config(self) -> PipelineConfig:
        """The config that made it."""
        return PipelineConfig.parse(self.config, source=CARD)


def is_weights(name: str) -> bool:
    """Whether a file of a package holds weights."""
    return name.endswith(".safetensors")


def trace(card: Card, gate: GateReport | None, model_name: str, package: Path) -> Lineage:
    """The lineage of a package whose other files are all written."""
    config, clean, tokens, report = card.config, card.clean, card.tokens, card.report
    values = config.model_dump(mode="json")
    template = package / CHAT_TEMPLATE
    return Lineage(
        model_name=model_name,
        job_id=card.job.id,
        kind=card.kind,
        base=trace_base(config.model),
        data=DataFacts(
            path=config.dataset.path,
            source=config.dataset.source.value,
            source_digest=clean.source_digest,
            clean_digest=clean.digest,
            tokens_digest=tokens.digest,
            ledger_digest=digest_file(tokens.ledger),
            measured_digest=digest_file(
                clean.evaluation if tokens.evaluation_split else clean.validation
            ),
            format=clean.format,
            rows=clean.rows,
            kept=clean.kept,
            changed=clean.changed,
            dropped=clean.dropped,
            train_rows=tokens.train_split.rows,
            held_out_rows=tokens.validation_split.rows,
        ),
        tokenizer_digest=tokens.tokenizer_digest,
        template=tokens.template,
        template_digest=digest_file(template) if template.is_file() else digest_json(None),
        config=values,
        config_digest=digest_json(values),
        code_version=code_version(),
        environment=_environment(card),
        seeds={"training": config.training.seed, "intervals": SEED},
        combined=card.combined,
        steps=card.trained.steps if card.trained else 0,
        trained_tokens=card.trained.trained_tokens if card.trained else 0,
        checkpoint_step=card.chosen.step,
        checkpoint_digest=card.chosen.digest,
        base_metrics=report.base,
        metrics=report.tuned,
        intervals=report.tuned_intervals,
        gate=gate.verdict if gate else None,
        files=digests(package),
    )


def trace_base(model: ModelConfig) -> BaseModelFacts:
    """What a base is now; raises as `find_model`."""
    folder = find_model(model)
    return BaseModelFacts(
        name=model.name, revision=revision_of(model, folder), digest=digest_model(folder)
    )


def digests(package: Path) -> dict[str, str]:
    """The sha256 of each file that a card names, by its name."""
    return {
        str(path.relative_to(package)): digest_file(path)
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.name not in OWN
    }


def write_lineage(lineage: Lineage, package: Path) -> str:
    """Writes the card beside what it tells of, and gives its sha256."""
    write_json(package / CARD, lineage.model_dump(mode="json"))
    return digest_file(package / CARD)


def read_lineage(package: Path) -> Lineage:
    """Reads a version's card.

    Raises:
        UnverifiedError: There is none, or it cannot be read.
    """
    try:
        return Lineage.model_validate(json.loads((package / CARD).read_text()))
    except FileNotFoundError:
        raise UnverifiedError(
            f"there is no {CARD} in it, so nothing is known of how it was made", hint=NO_CARD
        ) from None
    except ValueError as error:
        raise UnverifiedError(f"its {CARD} cannot be read: {error}") from None


def fetch_lineage(hub: Hub, version: Version) -> Lineage:
    """Fetches a version's card alone; raises as `read_lineage`.

    Raises:
        UnverifiedError: It has none.
        HubUnavailableError: The hub is away.
    """
    with tempfile.TemporaryDirectory() as temporary:
        try:
            hub.fetch(version, CARD, Path(temporary))
        except VersionNotFoundError:
            raise UnverifiedError(f"{version.ref} has no {CARD}", hint=NO_CARD) from None
        return read_lineage(Path(temporary))


def _environment(card: Card) -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(),
        gpus=_gpus(),
        device=card.trained.device if card.trained else "cpu",
        precision=card.trained.precision if card.trained else "float32",
        packages={
            each.name: each.version
            for each in sorted(importlib.metadata.distributions(), key=lambda each: each.name)
        },
    )


def _processor() -> str:
    """The processor's name, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _gpus() -> list[str]:
    """The GPUs' names; this process has no torch to ask."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split("\n")[:-1]
