"""Challenge: the new model against the champion, or its base, on all that the gate asks for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from finetune_core.child import Emit
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sections import EvaluationConfig, ModelConfig
from finetune_core.data.encode import load_tokenizer
from finetune_core.evaluation.benchmark import BenchmarkRunner
from finetune_core.evaluation.evaluate import load_base
from finetune_core.evaluation.intervals import CHANGE, values
from finetune_core.evaluation.measuring import Measure, Measured
from finetune_core.evaluation.request import ChallengeRequest
from finetune_core.exceptions import EvaluationError, FineTuneError, ParityError
from finetune_core.models.loading import fit_vocabulary, load_model, load_quantized
from finetune_core.models.merging import ADAPTER_CONFIG, MergeRequest, merge
from finetune_core.models.source import digest_tokenizer
from finetune_core.models.tasks import read_labels
from finetune_core.storage import once
from finetune_core.types import Broken, Challenge, EvaluationMetric, TrainingMethod

ALL_ROWS = 100_000
CONFIG = "config.yaml"  # of a registered version


def challenge(request: ChallengeRequest, emit: Emit) -> Challenge:
    """Measures what the gate asks for beyond the report.

    Raises:
        InputError: A file of the gate's cannot be read.
        EvaluationError: The candidate does not run.
    """
    return once(request.output, Challenge, lambda folder: _run(request, emit, folder))


def _run(request: ChallengeRequest, emit: Emit, folder: Path) -> Challenge:
    gate, report = request.gate, request.report
    candidate_folder = request.chosen.folder
    tokenizer = load_tokenizer(candidate_folder)
    broken: list[Broken] = []
    cases, general, fault, unlike = 0, None, None, None
    if gate.regression_path or gate.general_path:
        model = _load_candidate(request, tokenizer)
        if gate.regression_path:
            cases, broken = _regressions(request, model, tokenizer, emit)
        if gate.general_path:
            general = _general_loss(request, model, tokenizer, emit)
        del model  # there may be no room for two
    incumbent, change = report.base, report.change
    before = general
    if request.champion:
        try:
            model, tokenizer = _load_champion(request.champion, request)
            incumbent, change = _compare(request, model, tokenizer, emit)
            if general is not None:
                before = _general_loss(request, model, tokenizer, emit)
            del model
        except FineTuneError as error:  # it is the champion's fault: the job goes on
            unlike = error.message
    elif general is not None:
        before = _general_loss(request, load_base(request, tokenizer), tokenizer, emit)
    if gate.check_merge and (candidate_folder / ADAPTER_CONFIG).is_file():
        fault = _merge_fault(request, folder)
    return Challenge(
        folder=folder,
        incumbent=incumbent,
        change=change,
        general=None if general is None or before is None else (before, general),
        cases=cases,
        broken=broken,
        merge_fault=fault,
        unlike=unlike,
    )


def _compare(
    request: ChallengeRequest, model: Any, tokenizer: Any, emit: Emit
) -> tuple[dict[str, float], dict[str, tuple[float, float, float]]]:
    """The champion's values, and what the candidate has more, on the report's rows."""
    report, config = request.report, request.evaluation
    task, labels = request.tokens.task, request.tokens.labels
    tokens = Dataset.from_file(str(request.tokens.measured))
    done = 0

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        emit({"type": "progress", "done": done, "total": len(measure)})

    measure = Measure(tokens, tokenizer, task, labels, config, progress, request.sql)
    candidate = Measured(
        np.load(report.sums), [sample["tuned"] for sample in report.read_samples()]
    )
    champion = measure("champion", model)
    compared = measure.compare({"champion": champion, "candidate": candidate})
    change = {name: (each.value, *each.interval) for name, each in compared[CHANGE].items()}
    return values(compared["champion"]), change


def _regressions(
    request: ChallengeRequest, model: Any, tokenizer: Any, emit: Emit
) -> tuple[int, list[Broken]]:
    """How many regression cases there are, and those that the model does not answer as it must."""
    runner = _runner(request, tokenizer, [EvaluationMetric.EXACT_MATCH], emit)
    answered = runner.answer(model, str(request.gate.regression_path))
    broken = [
        Broken(
            row=question.row,
            prompt=tokenizer.decode(question.prompt, skip_special_tokens=True),
            expected=question.expected,
            answer=answer,
        )
        for question, answer in answered
        if answer.strip() != question.expected.strip()
    ]
    return len(answered), broken


def _general_loss(request: ChallengeRequest, model: Any, tokenizer: Any, emit: Emit) -> float:
    runner = _runner(request, tokenizer, [EvaluationMetric.LOSS], emit)
    found = runner.evaluate(model, str(request.gate.general_path))
    return found.scores[EvaluationMetric.LOSS.value]


def _runner(
    request: ChallengeRequest, tokenizer: Any, metrics: list[EvaluationMetric], emit: Emit
) -> BenchmarkRunner:
    config = EvaluationConfig.model_validate(
        {**request.evaluation.model_dump(), "metrics": metrics, "num_samples": ALL_ROWS}
    )
    return BenchmarkRunner(config, tokenizer, request.tokenization, emit)


def _merge_fault(request: ChallengeRequest, folder: Path) -> str | None:
    """Why adapter and base do not merge into one that answers as they do; none where they do."""
    output = folder / "merged"
    asked = MergeRequest(adapter=request.chosen.folder, output=output, base=request.model.name)
    try:
        merge(asked, lambda event: None)
    except ParityError as error:
        return error.message
    finally:
        shutil.rmtree(output, ignore_errors=True)
    return None


def _load_candidate(request: ChallengeRequest, tokenizer: Any) -> Any:
    folder = request.chosen.folder
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapted(load_base(request, tokenizer), folder)
    return _on_device(_whole(request.model, folder))


def _load_champion(folder: Path, request: ChallengeRequest) -> tuple[Any, Any]:
    """The champion as it was trained, and its tokenizer.

    Raises:
        EvaluationError: It reads other tokens than the candidate: row for row, nothing compares.
    """
    if digest_tokenizer(folder) != digest_tokenizer(request.chosen.folder):
        raise EvaluationError(
            "the champion reads its rows by another tokenizer, so the two cannot be compared "
            "row by row"
        )
    config = PipelineConfig.from_yaml(folder / CONFIG)
    tokenizer = load_tokenizer(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        return _on_device(_whole(config.model, folder)), tokenizer
    quantized = config.training.method is TrainingMethod.QLORA
    base = (load_quantized if quantized else load_model)(config.model, read_labels(folder))
    fit_vocabulary(base, tokenizer)
    return _adapted(base, folder), tokenizer


def _whole(config: ModelConfig, folder: Path) -> Any:
    return load_model(config.model_copy(update={"name": str(folder), "revision": None}))


def _adapted(base: Any, folder: Path) -> Any:
    import peft

    return _on_device(peft.PeftModel.from_pretrained(base, folder))


def _on_device(model: Any) -> Any:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
