"""Measuring: a model on tokenized rows, row by row, so that two models can be compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset

from finetune_core.config.sections import EvaluationConfig
from finetune_core.config.sql import SqlConfig
from finetune_core.data.collate import Collator
from finetune_core.data.masks import IGNORED
from finetune_core.data.pairs import answer_text
from finetune_core.evaluation import metrics
from finetune_core.evaluation.generation import generate
from finetune_core.evaluation.intervals import Estimate, Statistic, Weights, compare
from finetune_core.evaluation.token_score import score, token_sums
from finetune_core.exceptions import EvaluationError, FineTuneError
from finetune_core.models.tasks import default_metrics, task_of
from finetune_core.text_to_sql.scoring import Scorer
from finetune_core.types import Task

Progress = Callable[[int], None]  # is told how many more rows are measured


class Question(NamedTuple):
    """A row to be answered: its tokens up to the last answer, and that answer as text."""

    row: int
    prompt: list[int]
    expected: str


class Measured(NamedTuple):
    """What a model makes of rows.

    Attributes:
        sums: (rows, 3), as `token_sums` gives them, in the rows' own order.
        answers: What it has written to the questions.
    """

    sums: npt.NDArray[np.float64]
    answers: list[str]


class Measure:
    """Measures models on the same rows, and compares them.

    Args:
        tokens: The rows, as `TOKENS_SCHEMA`.
        tokenizer: The models' own.
        task: The models'.
        labels: Those that a model chooses from.
        config: The metrics, and how answers are generated.
        progress: Is told how many more rows are measured.
        sql: The databases that the answers are queries for, if they are.

    Raises:
        EvaluationError: The gold SQL of the rows is not there.
    """

    def __init__(
        self,
        tokens: Dataset,
        tokenizer: Any,
        task: Task,
        labels: Sequence[str],
        config: EvaluationConfig,
        progress: Progress,
        sql: SqlConfig | None = None,
    ) -> None:
        self._tokens = tokens
        self._tokenizer = tokenizer
        self._config = config
        self._wanted = default_metrics(task) if config.metrics is None else config.metrics
        self._progress = progress
        found = find_questions(tokens, tokenizer, task, labels)
        self.questions = list(islice(found, config.num_samples))
        self._scorer: Scorer | None = None
        if sql and sql.executes and self.questions:
            rows = [question.row for question in self.questions]
            self._scorer = Scorer(sql, rows, [question.expected for question in self.questions])

    def __len__(self) -> int:
        """How often progress is told of one model."""
        return len(self.questions) + len(self._tokens)

    def __call__(self, name: str, model: Any) -> Measured:
        """Asks a model.

        Raises:
            EvaluationError: It does not run.
        """
        config = self._config
        try:
            model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
            sums = row_sums(model, self._tokenizer, self._tokens, config.batch_size, self._progress)
            answers = generate(
                model,
                self._tokenizer,
                [question.prompt for question in self.questions],
                batch_size=config.batch_size,
                max_new_tokens=config.generation_max_length,
                on_progress=self._progress,
            )
        except FineTuneError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"the {name} model does not run: {type(error).__name__}: {error}"
            ) from error
        return Measured(sums, answers)

    def compare(self, models: Mapping[str, Measured]) -> dict[str, dict[str, Estimate]]:
        """Each model's values, and what the last has more than the first, as `intervals.compare`.

        Args:
            models: What each has made of the rows, by its name.
        """
        sums = {name: token_statistic(each.sums) for name, each in models.items()}
        compared = compare(sums, len(self._tokens))
        expected = [question.expected for question in self.questions]
        if expected:  # a plain text asks nothing
            scores: list[Callable[[Sequence[str]], Statistic]] = [
                lambda answers: metrics.statistic(self._wanted, answers, expected)
            ]
            if self._scorer:
                scores.append(self._scorer.statistic)
            for score_of in scores:
                of_answers = {name: score_of(each.answers) for name, each in models.items()}
                for name, found in compare(of_answers, len(expected)).items():
                    compared[name] |= found
        return compared


def row_sums(
    model: Any, tokenizer: Any, tokens: Dataset, batch_size: int, progress: Progress
) -> npt.NDArray[np.float64]:
    """What a model makes of the expected answers of each row.

    Args:
        model: One of any task.
        tokenizer: Its tokenizer.
        tokens: The rows, as `TOKENS_SCHEMA`.
        batch_size: Rows at once.
        progress: Is told how many more rows are measured.

    Returns:
        (rows, 3), as `token_sums` gives them.
    """
    task = task_of(model)
    collate = Collator(tokenizer, task)
    order = np.argsort(tokens["length"][:], kind="stable")
    found = np.empty((len(order), 3))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [tokens[int(index)] for index in chosen]
        batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
        # An encoder-decoder reads the answer too, shifted by one; a causal model has it already.
        labels = batch["labels"] if task is Task.SEQ2SEQ else batch.pop("labels")
        with torch.inference_mode():
            found[chosen] = token_sums(model(**batch).logits, labels, task).cpu().numpy()
        progress(len(rows))
    return found


def token_statistic(sums: npt.NDArray[np.float64]) -> Statistic:
    """Loss, perplexity and token accuracy of rows.

    Args:
        sums: (rows, 3), as `row_sums` gives them.
    """

    def statistic(weights: Weights) -> dict[str, float]:
        total = score(torch.from_numpy(sums * weights[:, None]))
        return {
            "loss": total.loss,
            "perplexity": total.perplexity,
            "token_accuracy": total.accuracy,
        }

    return statistic


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
