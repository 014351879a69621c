"""What a person at a terminal sees of a stage: a bar while it lasts, a line when it is done."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from finetune_core.child import Event
from finetune_core.config.settings import Settings


class Terminal:
    """Shows one stage on standard error, where `FINETUNE_PROGRESS` says that somebody looks.

    On a terminal there is a bar; in a file or a pipe, a line for each validation.
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._shown = Settings().progress
        self._live = self._shown and sys.stderr.isatty()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._bar = self._progress.add_task(verb, total=None, facts="")

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows an event of a child process."""
        if event["type"] == "progress":
            self._progress.update(self._bar, completed=event["done"], total=event.get("total"))
        elif event["type"] in ("began", "step"):
            facts = ""
            if "train_loss" in event:
                facts = f"loss {event['train_loss']:.3f}  {event['tokens_per_s']:,.0f} tok/s"
            self._progress.update(
                self._bar, completed=event["step"], total=event["total_steps"], facts=facts
            )
        elif event["type"] == "eased" and self._shown:
            self._console.print(f"  {self._verb}  {event['cause']}: {event['action']}")
        elif event["type"] == "validation" and self._shown:
            self._console.print(
                f"  {self._verb}  step {event['step']}  valid_loss {event['valid_loss']:.4f}  "
                f"token accuracy {event['valid_token_accuracy']:.3f}"
            )

    def finished(self, summary: str, seconds: float) -> None:
        """Shows what came of the stage."""
        if self._shown:
            self._progress.stop()
            self._console.print(f"[green]✓[/] {self._verb:<10} {summary}  [dim]{seconds:.1f} s[/]")
