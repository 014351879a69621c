"""Evaluate: base and tuned model on the held-out rows, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from finetune_core.child import Emit
from finetune_core.data.encode import load_tokenizer
from finetune_core.evaluation.intervals import CHANGE, intervals, values
from finetune_core.evaluation.measuring import Measure, Measured
from finetune_core.evaluation.report import write_report
from finetune_core.evaluation.request import EvaluateRequest
from finetune_core.models.loading import fit_vocabulary, load_model, load_quantized
from finetune_core.models.merging import ADAPTER_CONFIG
from finetune_core.storage import once
from finetune_core.types import EvaluationReport, Task, TrainingMethod


def evaluate(request: EvaluateRequest, emit: Emit) -> EvaluationReport:
    """Measures both models on the held-out rows.

    Loss, perplexity and token accuracy are over all of them, the metrics on generated answers
    over the first.

    Raises:
        EvaluationError: A model does not run.
    """
    return once(request.output, EvaluationReport, lambda folder: _write(request, emit, folder))


def _write(request: EvaluateRequest, emit: Emit, folder: Path) -> EvaluationReport:
    import peft

    config, tuned_folder = request.evaluation, request.chosen.folder
    task, labels = request.tokens.task, request.tokens.labels
    tokenizer = load_tokenizer(tuned_folder)
    tokens = Dataset.from_file(str(request.tokens.measured))
    done = 0

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        emit({"type": "progress", "done": done, "total": 2 * len(measure)})

    measure = Measure(tokens, tokenizer, task, labels, config, progress, request.sql)
    models: dict[str, Measured] = {}
    if (tuned_folder / ADAPTER_CONFIG).is_file():
        model = peft.PeftModel.from_pretrained(load_base(request, tokenizer), tuned_folder)
        with model.disable_adapter():
            models["base"] = measure("base", model)
        models["tuned"] = measure("tuned", model)
    else:  # one is gone before the other is loaded: there may be no room for two
        models["base"] = measure("base", load_base(request, tokenizer))
        tuned = {"name": str(tuned_folder), "revision": None}
        models["tuned"] = measure("tuned", load_model(request.model.model_copy(update=tuned)))
    compared = measure.compare(models)
    report = EvaluationReport(
        folder=folder,
        rows=len(tokens),
        generated_rows=len(measure.questions),
        base=values(compared["base"]),
        tuned=values(compared["tuned"]),
        base_intervals=intervals(compared["base"]),
        tuned_intervals=intervals(compared["tuned"]),
        change_intervals=intervals(compared[CHANGE]),
    )
    samples = [
        {
            "row": question.row,
            "prompt": tokenizer.decode(
                question.prompt, skip_special_tokens=task is not Task.CAUSAL
            ),
            "expected": question.expected,
            "base": base,
            "tuned": tuned,
        }
        for question, base, tuned in zip(
            measure.questions, models["base"].answers, models["tuned"].answers, strict=True
        )
    ]
    with report.samples.open("w") as file:
        file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    np.save(report.sums, models["tuned"].sums)
    write_report(report, samples)
    return report


def load_base(request: EvaluateRequest, tokenizer: Any) -> Any:
    """The base that was tuned, as it was read to train."""
    quantized = request.method is TrainingMethod.QLORA
    torch.manual_seed(0)  # a new head is drawn, and the report is the same twice
    model = (load_quantized if quantized else load_model)(request.model, request.tokens.labels)
    fit_vocabulary(model, tokenizer)
    return model
