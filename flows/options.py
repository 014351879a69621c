"""The options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="A YAML or JSON config; flags go over it.")
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="A model's folder, or its id on the hub.")
]
ModelTask = Annotated[
    str | None,
    typer.Option(
        "--task", help="causal, seq2seq or classification; else what the model was made for."
    ),
]
Validation = Annotated[str | None, typer.Option("--validation", help="A file of held-out rows.")]
Evaluation = Annotated[
    str | None, typer.Option("--evaluation", help="A file of rows to compare base and tuned on.")
]
HubDataset = Annotated[
    str | None, typer.Option("--hf-dataset", help="A hub's dataset, by its id, for a file.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="What a row looks like; else found: chat, alpaca ...")
]
InputField = Annotated[str | None, typer.Option("--input-field", help="The column of the prompt.")]
OutputField = Annotated[
    str | None, typer.Option("--output-field", help="The column of the answer.")
]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", help="The tokens that a row may have.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", "-e", help="Passes over the rows.")]
LearningRate = Annotated[
    str | None, typer.Option("--learning-rate", "--lr", help="The peak, or auto.")
]
BatchSize = Annotated[
    str | None, typer.Option("--batch-size", "-b", help="Rows an optimizer step, or auto.")
]
LoraRank = Annotated[
    int | None, typer.Option("--lora-rank", "--lora-r", help="The adapter's rank.")
]
LoraAlpha = Annotated[
    float | None, typer.Option("--lora-alpha", help="The adapter's scale, times its rank.")
]
LoraDropout = Annotated[float | None, typer.Option("--lora-dropout", help="The adapter's dropout.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Decides every draw.")]
Organization = Annotated[str, typer.Option("--organization", help="Whose job and data it is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
