"""The model card: what a version is, from what it was made, and how it is loaded."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.evaluation.report import comparison, table
from finetune_core.storage import digest_json
from finetune_core.types import (
    ChosenCheckpoint,
    CleanData,
    EvaluationReport,
    Job,
    Record,
    RegisteredVersion,
    StageRecord,
    TokenizedData,
    TrainedCheckpoints,
)
from finetune_core.version import __version__


class Card(Record):
    """Everything that a model card tells."""

    job: Job
    config: PipelineConfig
    clean: CleanData
    tokens: TokenizedData
    trained: TrainedCheckpoints
    chosen: ChosenCheckpoint
    report: EvaluationReport

    @property
    def tags(self) -> dict[str, str]:
        """The facts by which versions are found."""
        return {
            "job_id": self.job.id,
            "base_model": self.config.model.name,
            "method": self.config.training.method.value,
            "dataset_digest": self.clean.source_digest,
            "tokenizer_digest": self.tokens.tokenizer_digest,
            "config_digest": digest_json(self.config.model_dump(mode="json")),
            "adapter_digest": self.chosen.digest,
            "code_version": code_version(),
        }


class JobResult(Card):
    """What a finished job leaves behind."""

    registered: RegisteredVersion

    @property
    def stages(self) -> dict[str, StageRecord]:
        """The record of each stage, by the stage's verb."""
        return {
            "sanitize": self.clean,
            "tokenize": self.tokens,
            "train": self.trained,
            "checkpoint": self.chosen,
            "evaluate": self.report,
            "register": self.registered,
        }


def write_card(card: Card, model_name: str, path: Path) -> None:
    """Writes the card as the Markdown that hubs show, its facts for machines on top."""
    config, clean, report = card.config, card.clean, card.report
    front = {"base_model": config.model.name, "library_name": "peft", "tags": "[finetune, lora]"}
    load = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{config.model.name}")',
        'model = PeftModel.from_pretrained(base, "FOLDER_OF_THIS_FILE")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OF_THIS_FILE")',
    ]
    data = [
        ("file", Path(config.dataset.path).name),
        ("sha256", clean.source_digest),
        ("format", clean.format),
        (
            "rows",
            f"{clean.rows}: {clean.kept} kept, {clean.changed} changed, {clean.dropped} dropped",
        ),
        ("learned from", f"{card.tokens.train_split.rows} rows"),
        ("held out", f"{card.tokens.validation_split.rows} rows"),
        ("tokens trained on", str(card.trained.trained_tokens)),
    ]
    lines = [
        "---",
        *(f"{name}: {value}" for name, value in front.items()),
        "---",
        "",
        f"# {model_name}",
        "",
        f"A {config.training.method.value} adapter for `{config.model.name}`, made by job "
        f"{card.job.id}; the checkpoint of step {card.chosen.step} of {card.trained.steps} "
        f"({card.chosen.reason}).",
        "",
        "## Metrics",
        "",
        f"On {report.rows} held-out rows, generations on {report.generated_rows}.",
        "",
        *table(["metric", "base", "tuned", "change"], comparison(report)),
        "",
        "## Data",
        "",
        *table(["", ""], data),
        "",
        "## How to load",
        "",
        "```python",
        *load,
        "```",
        "",
        "## Config",
        "",
        *table(["setting", "value"], [(name, str(v)) for name, v in flat(config).items()]),
        "",
        "## Provenance",
        "",
        *table(["", ""], list(card.tags.items())),
        "",
    ]
    path.write_text("\n".join(lines))


def flat(config: PipelineConfig) -> dict[str, Any]:
    """`section.field` → value."""
    return {
        f"{section}.{name}": value
        for section, fields in config.model_dump(mode="json").items()
        for name, value in fields.items()
    }


def code_version() -> str:
    """The version of this code, with the commit where it is run from a checkout."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        commit = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}+{commit}"
