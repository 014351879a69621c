"""What was found, for people: the facts in words, and a page."""

from __future__ import annotations

from html import escape

from finetune_core.data.report import DataReport

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }
th { text-align: left; padding-right: 2rem; font-weight: normal; color: #555; white-space: pre }
td { overflow-wrap: anywhere }
pre { white-space: pre-wrap; background: #f5f5f5; padding: 1rem }
mark { background: #bdf0c8 }
.bars { display: flex; align-items: end; height: 8rem; gap: 2px; border-bottom: 1px solid }
.bars i { flex: 1; background: #4a78c2 }
.ends { display: flex; justify-content: space-between; color: #555 }
"""


def facts(report: DataReport) -> list[tuple[str, str]]:
    """What was counted, as names and values."""
    tokens = report.tokens
    return [
        ("rows", f"{report.rows:,} ({', '.join(report.formats)})"),
        ("kept, changed, dropped", f"{report.kept:,}, {report.changed:,}, {report.dropped:,}"),
        *(
            (f"  {rule}", ", ".join(f"{n:,} {action}" for action, n in counts.items() if n))
            for rule, counts in report.rules.items()
        ),
        ("to learn from, held out", f"{report.train_rows:,}, {report.validation_rows:,}"),
        *([("to evaluate on", f"{report.evaluation_rows:,}")] if report.evaluation_rows else []),
        ("tokens", f"{tokens.total:,}, {tokens.trained / tokens.total:.0%} of them trained"),
        ("a row: median, 90 %, 99 %", f"{tokens.median:,}, {tokens.p90:,}, {tokens.p99:,}"),
        ("longest", f"{tokens.longest:,}; {tokens.too_long:,} over the limit of {tokens.limit:,}"),
        ("template", report.template),
    ]


def verdict(report: DataReport) -> str:
    """The verdict with its reasons."""
    return f"{report.verdict}{': ' if report.reasons else ''}{'; '.join(report.reasons)}"


def markdown(report: DataReport) -> str:
    """The facts as Markdown."""
    rows = (f"| {name.strip()} | {value} |" for name, value in facts(report))
    return "\n".join([f"# {verdict(report)}", "", "| | |", "|---|---|", *rows])


def page(report: DataReport, title: str) -> str:
    """An HTML page that needs nothing beside it; what is trained is marked."""
    rows = "".join(f"<tr><th>{escape(k)}<td>{escape(v)}" for k, v in facts(report))
    highest = max(report.tokens.histogram)
    bars = "".join(
        f'<i style="height:{100 * count / highest:.1f}%" title="{count:,} rows"></i>'
        for count in report.tokens.histogram
    )
    samples = "".join(
        "<pre>"
        + "".join(
            f"<mark>{escape(piece.text)}</mark>" if piece.trained else escape(piece.text)
            for piece in pieces
        )
        + "</pre>"
        for pieces in report.samples
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<h1>{escape(title)}: {escape(verdict(report))}</h1>
<table>{rows}</table>
<h2>Tokens a row</h2>
<div class="bars">{bars}</div>
<div class="ends"><span>0</span><span>{report.tokens.longest:,}</span></div>
<h2>As the model reads it; what is trained is marked</h2>
{samples}
</html>
"""
