"""The report of an evaluation: for people as Markdown, for machines as the record beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from finetune_core.types import EvaluationReport

SHOWN_SAMPLES = 5


def write_report(report: EvaluationReport, samples: Sequence[dict[str, Any]]) -> None:
    """Writes `report.md` into the report's folder."""
    rows = comparison(report)
    lines = [
        "# Evaluation",
        "",
        f"Loss, perplexity and token accuracy over {report.rows} held-out rows; "
        f"the rest over the answers generated to {report.generated_rows} of them, greedily.",
        "",
        *table(["metric", "base", "tuned", "change"], rows),
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
    return [
        (name, f"{base:.4f}", f"{report.tuned[name]:.4f}", f"{report.tuned[name] - base:+.4f}")
        for name, base in report.base.items()
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]
