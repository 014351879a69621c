"""BenchmarkRunner: what loaded models score on a dataset, for use from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_core.child import Emit
from finetune_core.config.sections import DatasetConfig, EvaluationConfig, TokenizationConfig
from finetune_core.data.dataset import Dataset
from finetune_core.data.examine import examine
from finetune_core.data.formats import Conversation
from finetune_core.data.ledger import DROPPED, Finding
from finetune_core.data.loading import Block, read_blocks
from finetune_core.data.rows import to_conversation
from finetune_core.data.source import TRAINING, find_sources
from finetune_core.evaluation import metrics
from finetune_core.evaluation.intervals import Estimate, Interval, estimate, intervals, values
from finetune_core.evaluation.report import HEAD, compared, table
from finetune_core.exceptions import EmptyDatasetError
from finetune_core.models.tasks import (
    default_metrics,
    fit_tokenization,
    label_names,
    task_of,
)
from finetune_core.types import OF_TOKENS, Record, Task

if TYPE_CHECKING:
    import datasets

    from finetune_core.data.encode import RowEncoder
    from finetune_core.evaluation.measuring import Question

Rows = Dataset | DatasetConfig | str | Path  # rows in memory, or where they are


class BenchmarkResult(Record):
    """What one model scores.

    Attributes:
        label: What the model is called.
        scores: Each metric's value.
        intervals: Each metric's 95 % interval.
        samples: The rows that were measured; with metrics of answers, those answered.
    """

    label: str
    scores: dict[str, float]
    intervals: dict[str, Interval]
    samples: int


class BenchmarkReport(Record):
    """What a base and the model tuned from it score on the same rows."""

    base: BenchmarkResult
    tuned: BenchmarkResult

    @property
    def improvements(self) -> dict[str, float]:
        """Tuned minus base; of loss and perplexity, less is better."""
        return {name: self.tuned.scores[name] - base for name, base in self.base.scores.items()}

    def summary(self) -> str:
        """Both models side by side, as a Markdown table."""
        base, tuned = self.base, self.tuned
        rows = compared(base.scores, tuned.scores, base.intervals, tuned.intervals)
        return "\n".join(table(HEAD, rows))


class BenchmarkRunner:
    """Measures models that are loaded already, wherever they are, and leaves them as they were.

    Args:
        eval_config: The metrics, and how answers are generated.
        tokenizer: A fast tokenizer of transformers', the models' own.
        tokenization: How rows become tokens; without it, as a job does by default.
        emit: Hears of the progress.

    Raises:
        InvalidConfigError: A metric executes queries.

    Example:
        >>> runner = BenchmarkRunner(EvaluationConfig(metrics=["rougeL", "bleu"]), tokenizer)
        >>> report = runner.run_comparison(base, tuned, "held_out.jsonl")
        >>> report.improvements
        {'rougeL': 0.12, 'bleu': 0.07}
    """

    def __init__(
        self,
        eval_config: EvaluationConfig,
        tokenizer: Any,
        tokenization: TokenizationConfig | None = None,
        emit: Emit | None = None,
    ) -> None:
        metrics.refuse_sql(eval_config.metrics or ())
        self._config = eval_config
        self._tokenizer = deepcopy(tokenizer)  # generating changes its padding
        self._tokenization = tokenization or TokenizationConfig()
        self._emit = emit

    def evaluate(
        self, model: Any, dataset: Rows | datasets.Dataset, label: str = "model"
    ) -> BenchmarkResult:
        """Measures a model on the first `num_samples` rows, by all metrics alike.

        Rows are read, repaired and left out as a job's held-out rows are, but equal ones all
        count.

        Args:
            model: One of any task.
            dataset: Rows in memory, a file, a dataset section, or the tokens that
                `prepare_dataset` made.
            label: What the model is called in the result.

        Raises:
            InputError: The rows cannot be read, or they ask nothing that could be answered.
            EvaluationError: A metric does not run.
        """
        from finetune_core.evaluation.generation import generate
        from finetune_core.evaluation.measuring import find_questions, row_sums, token_statistic

        config, tokenizer, task = self._config, self._tokenizer, task_of(model)
        wanted = default_metrics(task) if config.metrics is None else config.metrics
        labels, tokens = self._read(model, dataset)
        reads = any(metric in OF_TOKENS for metric in wanted)
        answers = any(metric not in OF_TOKENS for metric in wanted)
        questions = list(find_questions(tokens, tokenizer, task, labels)) if answers else []
        if answers and not questions:
            raise EmptyDatasetError(
                "the rows are plain texts, which ask nothing that could be answered",
                hint="Measure them by loss, perplexity or token_accuracy.",
            )
        done, total = 0, len(questions) + len(tokens) * reads

        def progress(rows: int) -> None:
            nonlocal done
            done += rows
            if self._emit:
                self._emit({"type": "progress", "done": done, "total": total})

        with _at_inference(model):
            known: dict[str, Estimate] = {}
            if reads:
                sums = row_sums(model, tokenizer, tokens, config.batch_size, progress)
                known = estimate(token_statistic(sums), len(sums))
            generated = generate(
                model,
                tokenizer,
                [question.prompt for question in questions],
                batch_size=config.batch_size,
                max_new_tokens=config.generation_max_length,
                on_progress=progress,
            )
        expected = [question.expected for question in questions]
        found = metrics.compute(wanted, generated, expected, known)
        return BenchmarkResult(
            label=label,
            scores=values(found),
            intervals=intervals(found),
            samples=len(questions) or len(tokens),
        )

    def answer(self, model: Any, dataset: Rows) -> list[tuple[Question, str]]:
        """A model's answers to the first `num_samples` rows, each with its question.

        Args:
            model: One of any task.
            dataset: As `evaluate` takes it; raises so too.
        """
        from finetune_core.evaluation.generation import generate
        from finetune_core.evaluation.measuring import find_questions

        labels, tokens = self._read(model, dataset)
        questions = list(find_questions(tokens, self._tokenizer, task_of(model), labels))
        with _at_inference(model):
            answers = generate(
                model,
                self._tokenizer,
                [question.prompt for question in questions],
                batch_size=self._config.batch_size,
                max_new_tokens=self._config.generation_max_length,
                on_progress=lambda rows: None,
            )
        return list(zip(questions, answers, strict=True))

    def _read(
        self, model: Any, dataset: Rows | datasets.Dataset
    ) -> tuple[list[str], datasets.Dataset]:
        """The labels that a model chooses from, and the rows as its tokens."""
        from finetune_core.data.encode import make_encoder

        task = task_of(model)
        labels = label_names(model.config.id2label) if task is Task.CLASSIFICATION else []
        fitted = fit_tokenization(
            self._tokenization, task, model.config.to_dict(), self._tokenizer.model_max_length
        )
        make = partial(make_encoder, self._tokenizer, fitted, task, labels)
        return labels, _tokens(dataset, make, self._config.num_samples)

    def run_comparison(
        self, base_model: Any, tuned_model: Any, dataset: Rows | datasets.Dataset
    ) -> BenchmarkReport:
        """Measures a base and the model tuned from it on the same rows; raises as `evaluate`.

        Args:
            base_model: The base; where the tuned model is an adapter on this very object, the
                adapter is switched off while it is measured.
            tuned_model: The tuned model.
            dataset: As `evaluate` takes it.
        """
        import peft

        adapted = isinstance(tuned_model, peft.PeftModel)
        shared = adapted and tuned_model.get_base_model() is base_model
        with tuned_model.disable_adapter() if shared else nullcontext():
            base = self.evaluate(base_model, dataset, "base")
        return BenchmarkReport(base=base, tuned=self.evaluate(tuned_model, dataset, "tuned"))


@contextmanager
def _at_inference(model: Any) -> Iterator[None]:
    """Without dropout while the block lasts."""
    trained: bool = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(trained)


def _tokens(
    dataset: Rows | datasets.Dataset, make_encoder: Callable[[], RowEncoder], limit: int
) -> datasets.Dataset:
    """So many rows, the first, as `TOKENS_SCHEMA`; those that cannot be encoded are missing."""
    import datasets

    findings: list[Finding] = []
    if isinstance(dataset, datasets.Dataset):
        some = dataset[:limit]
        ids, labels = some["input_ids"], some["labels"]
        numbers = list(range(1, len(ids) + 1))
    else:
        rows = dict(islice(_conversations(dataset), limit))
        names = [f"row {number}" for number in rows]
        encoded = make_encoder().encode(list(rows.values()), names)
        findings = [finding for _, finding in encoded if finding]
        parts = [
            (number, part)
            for number, (found, _) in zip(rows, encoded, strict=True)
            for part in found
        ]
        numbers = [number for number, _ in parts]
        ids, labels = [part.ids for _, part in parts], [part.labels for _, part in parts]
    if not numbers:
        first = next(iter(findings), None)
        raise EmptyDatasetError(
            f"no row is left to measure: {first.detail if first else 'all are empty'}",
            hint="For rows that are too long, see tokenization.max_length and too_long."
            if first and first.rule == "too_long"
            else None,
        )
    lengths = [len(row) for row in ids]
    return datasets.Dataset.from_dict(
        {"row": numbers, "input_ids": ids, "labels": labels, "length": lengths}
    )


def _conversations(dataset: Rows) -> Iterator[tuple[int, Conversation]]:
    """The rows that can be measured, with their numbers."""
    config, blocks = _blocks(dataset)
    columns: tuple[str, ...] = ()
    for block in blocks:
        columns = columns or tuple(block.row(0).values)
        examined = examine(config, columns, block)
        read = examined.conversations.to_pylist()
        for place, (row, outcome) in enumerate(zip(read, examined.outcomes, strict=True)):
            if outcome != DROPPED:
                yield block.first + place, to_conversation(row)


def _blocks(dataset: Rows) -> tuple[DatasetConfig, Iterator[Block]]:
    if isinstance(dataset, Dataset):
        if not dataset.rows:
            raise EmptyDatasetError(f"the dataset {dataset.name} has no rows")
        return DatasetConfig(path="-"), iter([Block(Path(dataset.name), 1, dataset.rows)])
    config = dataset if isinstance(dataset, DatasetConfig) else DatasetConfig(path=str(dataset))
    files = find_sources(config)[TRAINING]
    return config, read_blocks(files, config.max_samples, config.max_unpacked_mb * 2**20)
