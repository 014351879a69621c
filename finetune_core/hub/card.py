"""The model card: what a version is, from what it was made, and how it is loaded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from pydantic import Field

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.evaluation.report import comparison, table
from finetune_core.models.tasks import KINDS, LABELS
from finetune_core.storage import digest_json
from finetune_core.types import (
    ChosenCheckpoint,
    CleanData,
    EvaluationReport,
    Job,
    Record,
    RegisteredVersion,
    StageRecord,
    Task,
    TokenizedData,
    TrainedCheckpoints,
    TrainingMethod,
)
from finetune_core.version import __version__

QUANTIZATION = {
    4: 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True',
    8: "load_in_8bit=True",
}


class Card(Record):
    """Everything that a model card tells.

    `combined` are the versions of which it was made, where it was not trained.
    """

    job: Job
    config: PipelineConfig
    clean: CleanData
    tokens: TokenizedData
    trained: TrainedCheckpoints | None
    chosen: ChosenCheckpoint
    report: EvaluationReport
    combined: list[str] = Field(default_factory=list)

    @property
    def kind(self) -> str:
        """What was made: an adapter, or a whole model."""
        full = self.config.training.method is TrainingMethod.FULL_FINETUNING
        return "model" if full else "adapter"

    @property
    def description(self) -> str:
        """What was made, by which method, and of which base."""
        word = "for" if self.kind == "adapter" else "tuned from"
        method = self.config.training.method.value
        return f"{method} {self.kind} {word} {self.config.model.name}"

    @property
    def tags(self) -> dict[str, str]:
        """The facts by which versions are found."""
        return {
            "job_id": self.job.id,
            "base_model": self.config.model.name,
            "method": self.config.training.method.value,
            "task": self.tokens.task.value,
            "dataset_digest": self.clean.source_digest,
            "tokenizer_digest": self.tokens.tokenizer_digest,
            "config_digest": digest_json(self.config.model_dump(mode="json")),
            f"{self.kind}_digest": self.chosen.digest,
            "code_version": code_version(),
            **({"combined_of": ", ".join(self.combined)} if self.combined else {}),
        }


class JobResult(Card):
    """What a finished job leaves behind."""

    trained: TrainedCheckpoints
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
    method = config.training.method
    front = {
        "base_model": config.model.name,
        "library_name": "peft" if card.kind == "adapter" else "transformers",
        "tags": f"[finetune, {method.value}]",
    }
    data = [
        ("file", Path(config.dataset.path).name),
        ("sha256", clean.source_digest),
        ("format", clean.format),
        (
            "rows",
            f"{clean.rows}: {clean.kept} kept, {clean.changed} changed, {clean.dropped} dropped",
        ),
        ("template", card.tokens.template),
        ("learned from", f"{card.tokens.train_split.rows} rows"),
        ("held out", f"{card.tokens.validation_split.rows} rows"),
    ]
    made = f"combined of {', '.join(card.combined)}: {card.chosen.reason}"
    if card.trained:
        data.append(("tokens trained on", str(card.trained.trained_tokens)))
        made = f"the checkpoint of step {card.chosen.step} of {card.trained.steps}"
        made += f" ({card.chosen.reason})"
    lines = [
        "---",
        *(f"{name}: {value}" for name, value in front.items()),
        "---",
        "",
        f"# {model_name}",
        "",
        f"The {card.description}, made by job {card.job.id}; {made}.",
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
        *_how_to_load(config, card.tokens.task, card.chosen.folder),
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


def _how_to_load(config: PipelineConfig, task: Task, folder: Path) -> list[str]:
    """The lines of Python that load what was made."""
    here, base = '"FOLDER_OF_THIS_FILE"', f'"{config.model.name}"'
    loader = KINDS[task].loader
    tokenizer = f"tokenizer = AutoTokenizer.from_pretrained({here})"
    if config.training.method is TrainingMethod.FULL_FINETUNING:
        return [
            f"from transformers import {loader}, AutoTokenizer",
            "",
            tokenizer,
            f"model = {loader}.from_pretrained({here})",
        ]
    adapter = json.loads((folder / "adapter_config.json").read_text())
    classes, options, imports, labels = f"{loader}, AutoTokenizer", "", [], []
    if task is Task.CLASSIFICATION:
        imports = ["import json", "from pathlib import Path", ""]
        labels = [
            f"labels = json.loads(Path({here}, {LABELS!r}).read_text())".replace("'", '"'),
            "names = dict(enumerate(labels))",
            "numbers = {name: number for number, name in names.items()}",
        ]
        options = ", id2label=names, label2id=numbers, ignore_mismatched_sizes=True"
    if config.training.method is TrainingMethod.QLORA:
        classes += ", BitsAndBytesConfig"
        quantization = QUANTIZATION[config.model.quantization_bits]
        if whole := adapter.get("modules_to_save"):
            quantization += f", llm_int8_skip_modules={json.dumps(whole)}"
        options += f", quantization_config=BitsAndBytesConfig({quantization})"
    grow = ["base.resize_token_embeddings(len(tokenizer))"]
    return [
        *imports,
        "from peft import PeftModel",
        f"from transformers import {classes}",
        "",
        tokenizer,
        *labels,
        f"base = {loader}.from_pretrained({base}{options})",
        *(grow if adapter.get("trainable_token_indices") else []),
        f"model = PeftModel.from_pretrained(base, {here})",
    ]


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
