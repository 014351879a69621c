"""Evaluate: base and tuned model on the held-out rows, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from finetune_core.child import Emit
from finetune_core.data.collate import Collator
from finetune_core.data.encode import load_tokenizer
from finetune_core.data.masks import IGNORED
from finetune_core.data.pairs import answer_text
from finetune_core.evaluation import metrics
from finetune_core.evaluation.generation import generate
from finetune_core.evaluation.intervals import Estimate, Weights, estimate, intervals, values
from finetune_core.evaluation.report import write_report
from finetune_core.evaluation.request import EvaluateRequest
from finetune_core.evaluation.token_score import score, token_sums
from finetune_core.exceptions import EvaluationError, FineTuneError
from finetune_core.models.loading import fit_vocabulary, load_model, load_quantized
from finetune_core.models.tasks import default_metrics, task_of
from finetune_core.storage import once
from finetune_core.types import EvaluationReport, Task, TrainingMethod


class Question(NamedTuple):
    """A row to be answered: its tokens up to the last answer, and that answer as text."""

    row: int
    prompt: list[int]
    expected: str


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
    questions = list(islice(find_questions(tokens, tokenizer, task, labels), config.num_samples))
    wanted = default_metrics(task) if config.metrics is None else config.metrics
    done, total = 0, 2 * (len(questions) + len(tokens))

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        emit({"type": "progress", "done": done, "total": total})

    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured: dict[str, dict[str, Estimate]] = {}
    answers: dict[str, list[str]] = {}

    def load_base() -> Any:
        quantized = request.method is TrainingMethod.QLORA
        torch.manual_seed(0)  # a new head is drawn, and the report is the same twice
        model = (load_quantized if quantized else load_model)(request.model, labels)
        fit_vocabulary(model, tokenizer)
        return model

    def measure(name: str, model: Any) -> None:
        try:
            model.to(device).eval()
            measured[name] = measure_tokens(model, tokenizer, tokens, config.batch_size, progress)
            answers[name] = generate(
                model,
                tokenizer,
                [question.prompt for question in questions],
                batch_size=config.batch_size,
                max_new_tokens=config.generation_max_length,
                on_progress=progress,
            )
        except FineTuneError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"the {name} model does not run: {type(error).__name__}: {error}"
            ) from error
        expected = [question.expected for question in questions]
        if questions:  # a plain text asks nothing
            measured[name] |= metrics.compute(wanted, answers[name], expected)

    if (tuned_folder / "adapter_config.json").is_file():
        model = peft.PeftModel.from_pretrained(load_base(), tuned_folder)
        with model.disable_adapter():
            measure("base", model)
        measure("tuned", model)
    else:  # one is gone before the other is loaded: there may be no room for two
        measure("base", load_base())
        tuned = {"name": str(tuned_folder), "revision": None}
        measure("tuned", load_model(request.model.model_copy(update=tuned)))
    report = EvaluationReport(
        folder=folder,
        rows=len(tokens),
        generated_rows=len(questions),
        base=values(measured["base"]),
        tuned=values(measured["tuned"]),
        base_intervals=intervals(measured["base"]),
        tuned_intervals=intervals(measured["tuned"]),
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
        for question, base, tuned in zip(questions, answers["base"], answers["tuned"], strict=True)
    ]
    with report.samples.open("w") as file:
        file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    write_report(report, samples)
    return report


def find_questions(
    tokens: Dataset, tokenizer: Any, task: Task = Task.CAUSAL, labels: Sequence[str] = ()
) -> Iterator[Question]:
    """Each row cut before its last answer; a plain text asks nothing.

    Args:
        tokens: The rows, as `TOKENS_SCHEMA`.
        tokenizer: The model's.
        task: The model's.
        labels: Those that a model chooses from.
    """
    for row in tokens:
        if task is not Task.CAUSAL:
            answer = answer_text(tokenizer, row["labels"], labels)
            yield Question(row["row"], row["input_ids"], answer)
            continue
        trained = np.array(row["labels"]) != IGNORED
        last = len(trained) - int(trained[::-1].argmax())
        # An answer begins behind what is not trained, or behind the end of another answer.
        ids = np.array(row["input_ids"][: last - 1])
        behind = np.flatnonzero(~trained[: last - 1] | (ids == tokenizer.eos_token_id))
        first = int(behind[-1]) + 1 if len(behind) else 0
        prompt, written = row["input_ids"][:first], row["input_ids"][first:last]
        if prompt and prompt != [tokenizer.bos_token_id]:
            yield Question(row["row"], prompt, tokenizer.decode(written, skip_special_tokens=True))


def measure_tokens(
    model: Any,
    tokenizer: Any,
    tokens: Dataset,
    batch_size: int,
    progress: Callable[[int], None],
) -> dict[str, Estimate]:
    """Loss, perplexity and token accuracy of the expected answers.

    Args:
        model: One of any task.
        tokenizer: Its tokenizer.
        tokens: The rows, as `TOKENS_SCHEMA`.
        batch_size: Rows at once.
        progress: Is told how many more rows are measured.
    """
    task = task_of(model)
    collate = Collator(tokenizer, task)
    order = np.argsort(tokens["length"][:], kind="stable")
    sums = []
    for start in range(0, len(order), batch_size):
        rows = [tokens[int(index)] for index in order[start : start + batch_size]]
        batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
        # An encoder-decoder reads the answer too, shifted by one; a causal model has it already.
        labels = batch["labels"] if task is Task.SEQ2SEQ else batch.pop("labels")
        with torch.inference_mode():
            sums.append(token_sums(model(**batch).logits, labels, task).cpu())
        progress(len(rows))
    found = torch.cat(sums)

    def statistic(weights: Weights) -> dict[str, float]:
        total = score(found * torch.from_numpy(weights)[:, None])
        return {
            "loss": total.loss,
            "perplexity": total.perplexity,
            "token_accuracy": total.accuracy,
        }

    return estimate(statistic, len(found))
