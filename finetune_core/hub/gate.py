"""The gate: what a version must prove before it becomes the champion, and whether it has."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from finetune_core.config.sections import GateConfig
from finetune_core.data.formats import RowFault, find_format
from finetune_core.data.loading import find_files, read_rows
from finetune_core.evaluation.metrics import check_modules
from finetune_core.evaluation.report import table
from finetune_core.exceptions import DatasetFormatError, EmptyDatasetError, NoTextColumnsError
from finetune_core.types import (
    LESS_IS_BETTER,
    Challenge,
    EvaluationMetric,
    EvaluationReport,
    GateCheck,
    GateReport,
    Verdict,
)

CHECKED_ROWS = 100  # of each file, before a training
SHOWN_CASES = 3  # of those that are broken


def judge(
    gate: GateConfig, report: EvaluationReport, challenge: Challenge | None, incumbent: int | None
) -> Verdict:
    """What a version had to prove, and how it did.

    Args:
        gate: What is asked.
        report: Base and tuned model on the held-out rows.
        challenge: What was measured beyond it; none where base and tuned will do.
        incumbent: The champion's version; none where there is none, and the base stands for it.
    """
    checks = [_gain(gate, report, challenge, incumbent)]
    if challenge is not None:
        checks += _extra(gate, challenge)
    return Verdict(incumbent=incumbent, checks=checks)


def _extra(gate: GateConfig, challenge: Challenge) -> Iterator[GateCheck]:
    """What only is asked where the config says so."""
    if challenge.general is not None:
        before, after = challenge.general
        rise = after - before
        yield GateCheck(
            name="forgetting",
            passed=rise <= gate.max_forgetting,  # NaN is not
            detail=f"the loss on general rows goes from {before:.4f} to {after:.4f} "
            f"({rise:+.4f}; {gate.max_forgetting:g} more is allowed)",
        )
    if gate.regression_path:
        yield _regressions(challenge)
    if gate.check_merge:
        yield GateCheck(
            name="merge",
            passed=challenge.merge_fault is None,
            detail=challenge.merge_fault or "merged into its base, it answers as before",
        )


def check_gate(gate: GateConfig) -> None:
    """Finds before the training what would otherwise be found only behind it.

    Raises:
        DatasetError: A file of the gate's is not there, or its first rows cannot be read.
        InvalidConfigError: The metric is a file that is not there.
    """
    if not gate.enabled:
        return
    if gate.metric != "auto":
        check_modules([gate.metric])
    for path in (gate.general_path, gate.regression_path):
        for file in find_files(Path(path)) if path else ():
            _check_rows(file)


def _check_rows(file: Path) -> None:
    rows = list(read_rows(file, limit=CHECKED_ROWS))
    if not rows:
        raise EmptyDatasetError(f"{file} has no rows, and the gate measures by them")
    for row in rows:
        try:
            find_format(row.values).read(row.values)
        except (RowFault, NoTextColumnsError) as fault:
            raise DatasetFormatError(f"{file}, row {row.number}: {fault}") from None


def write_gate(report: GateReport, model_name: str) -> None:
    """Writes the report for people into its folder."""
    verdict = report.verdict
    rival = f"{model_name}@{verdict.incumbent}" if verdict.incumbent else "its base"
    lines = [
        "# Gate",
        "",
        f"The new version of {model_name} against {rival}: "
        f"**{'passed' if verdict.passed else 'not passed'}**.",
        "",
        *table(
            ["check", "passed", "what was found"],
            [(each.name, "yes" if each.passed else "no", each.detail) for each in verdict.checks],
        ),
        "",
    ]
    report.markdown.write_text("\n".join(lines))


def _gain(
    gate: GateConfig, report: EvaluationReport, challenge: Challenge | None, incumbent: int | None
) -> GateCheck:
    """Whether it is better by the primary metric; where it only may be, it is not."""
    rival = "the base"
    if incumbent is not None:
        rival = f"version {incumbent}"
    if challenge is not None and challenge.unlike:
        return GateCheck(name="gain", passed=False, detail=challenge.unlike)
    if challenge is not None:
        before, changes = challenge.incumbent, challenge.change
    else:
        before, changes = report.base, report.change
    name = _metric(gate, changes)
    if name not in changes:
        known = ", ".join(changes)
        detail = f"{name} was not measured, only {known}: add it to evaluation.metrics"
        return GateCheck(name="gain", passed=False, detail=detail)
    change, low, high = changes[name]
    less = name in LESS_IS_BETTER if gate.direction == "auto" else gate.direction == "lower"
    least = -high if less else low  # the gain at the worse end of the interval
    passed = least > gate.min_gain
    sure = "surely" if passed else "not surely"
    needed = f" by {gate.min_gain:g}" if gate.min_gain else ""
    return GateCheck(
        name="gain",
        passed=passed,
        detail=f"{name} is {sure} better{needed} than {rival}'s: {before[name]:.4f} → "
        f"{before[name] + change:.4f} ({change:+.4f}, 95 % between {low:+.4f} and {high:+.4f})",
    )


def _metric(gate: GateConfig, measured: Collection[str]) -> str:
    """The name of the primary metric: by default, what executed queries give, else the loss."""
    if gate.metric != "auto":
        return str(getattr(gate.metric, "value", gate.metric))
    executed = EvaluationMetric.EXECUTION_ACCURACY.value
    return executed if executed in measured else EvaluationMetric.LOSS.value


def _regressions(challenge: Challenge) -> GateCheck:
    broken = challenge.broken
    shown = "; ".join(
        f"row {each.row}: {each.answer.strip()[:80]!r} instead of {each.expected.strip()[:80]!r}"
        for each in broken[:SHOWN_CASES]
    )
    what = f"{len(broken)} of {challenge.cases} regression cases are broken"
    return GateCheck(
        name="regressions", passed=not broken, detail=f"{what}: {shown}" if broken else what
    )
