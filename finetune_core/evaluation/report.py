"""The report of an evaluation: for people as Markdown, for machines as the record beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_core.types import EvaluationReport

SHOWN_SAMPLES = 5
HEAD = ("metric", "base", "tuned", "change")

Scores = Mapping[str, float]
Intervals = Mapping[str, tuple[float, float]]


def write_report(report: EvaluationReport, samples: Sequence[dict[str, Any]]) -> None:
    """Writes `report.md` into the report's folder."""
    lines = [
        "# Evaluation",
        "",
        f"Loss, perplexity and token accuracy over {report.rows} held-out rows; "
        f"the rest over the answers generated to {report.generated_rows} of them, greedily. "
        "In brackets, the interval that a value has in 95 % of 1,000 resamples of these rows.",
        "",
        *table(HEAD, comparison(report)),
        "",
        "## Samples",
        "",
    ]
    for sample in samples[:SHOWN_SAMPLES]:
        lines += [
            f"**Row {sample['row']}**",
            "",
            "```text",
            sample["prompt"].strip(),
            "```",
            "",
            *table(
                ["", "answer"],
                [(name, sample[name]) for name in ("expected", "base", "tuned")],
            ),
            "",
        ]
    report.markdown.write_text("\n".join(lines))


def comparison(report: EvaluationReport) -> list[tuple[str, str, str, str]]:
    """The rows of a table base → tuned: metric, base, tuned, change."""
    return compared(report.base, report.tuned, report.base_intervals, report.tuned_intervals)


def compared(
    base: Scores, tuned: Scores, base_intervals: Intervals, tuned_intervals: Intervals
) -> list[tuple[str, str, str, str]]:
    """As `comparison`, of values that stand in no report."""
    return [
        (
            name,
            shown(value, base_intervals.get(name)),
            shown(tuned[name], tuned_intervals.get(name)),
            f"{tuned[name] - value:+.4f}",
        )
        for name, value in base.items()
    ]


def shown(value: float, interval: tuple[float, float] | None) -> str:
    """A value with its interval, where it has one: `0.8188 [0.750, 0.881]`."""
    if interval is None:
        return f"{value:.4f}"
    low, high = interval
    digits = 3 if high < 100 else 0  # a perplexity can be large, and a terminal is narrow
    return f"{value:.4f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]
