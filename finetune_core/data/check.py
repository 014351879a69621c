"""Check: what training on a dataset would see, found out before a GPU is spent."""

from __future__ import annotations

from pathlib import Path

from finetune_core.child import Emit
from finetune_core.config.sections import DatasetConfig, ModelConfig, TokenizationConfig
from finetune_core.data.report import DataReport, read_report
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.types import Record


class CheckRequest(Record):
    """What a check is asked."""

    dataset: DatasetConfig
    model: ModelConfig
    tokenization: TokenizationConfig
    cache: Path


class CheckResult(Record):
    """What was found, and where every row's fate is written down."""

    report: DataReport
    ledger: Path


def check(request: CheckRequest, emit: Emit) -> CheckResult:
    """Sanitizes and tokenizes a dataset as a job would, and says what came of it.

    Raises:
        InputError: The dataset cannot teach this model at all.
    """
    clean = sanitize(SanitizeRequest(dataset=request.dataset, cache=request.cache / "data"), emit)
    tokens = tokenize(
        TokenizeRequest.for_model(
            request.model,
            request.tokenization,
            clean=clean,
            sanitize=request.dataset.sanitize,
            cache=request.cache / "tokens",
        ),
        emit,
    )
    return CheckResult(report=read_report(tokens.report), ledger=tokens.ledger)
