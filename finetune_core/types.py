"""The enums, and the frozen records that stages hand on: paths, digests and counts."""

from __future__ import annotations

import json
import secrets
import time
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts


class TrainingMethod(str, Enum):
    """How the weights are tuned; `finetune_core.trainers.methods` has a record for each."""

    LORA = "lora"
    QLORA = "qlora"
    INSTRUCTION_TUNING = "instruction_tuning"
    FULL_FINETUNING = "full_finetuning"


class Task(str, Enum):
    """What a model does; `finetune_core.models.tasks` has a record for each.

    causal: writes on from what it reads. seq2seq: reads a text, then writes the answer.
    classification: reads a text and chooses one of its labels.
    """

    CAUSAL = "causal"
    SEQ2SEQ = "seq2seq"
    CLASSIFICATION = "classification"


class DatasetSource(str, Enum):
    """Where a dataset's name leads."""

    LOCAL_FILE = "local_file"
    HUB = "hub"


class DatasetFormat(str, Enum):
    """What a row looks like; `finetune_core.data.formats` reads each."""

    CHAT = "chat"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt_completion"
    TEXT_LABEL = "text_label"
    QUESTION_ANSWER = "question_answer"
    QUESTION_QUERY = "question_query"
    TEXT = "text"
    PREFERENCE = "preference"


class Precision(str, Enum):
    """The numbers that training computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BF16 = "bf16"
    FP16 = "fp16"


class Scheduler(str, Enum):
    """How the learning rate falls after the warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Strategy(str, Enum):
    """How several processes share a training.

    ddp: each holds the whole model and learns from its share of the rows. fsdp: each holds a share
    of the model too.
    """

    DDP = "ddp"
    FSDP = "fsdp"


class EvaluationMetric(str, Enum):
    """What an evaluation can measure, by its name in reports.

    The first three are over the tokens of the expected answers, the others on generated ones; the
    last three are of generated SQL, which is executed.
    """

    LOSS = "loss"
    PERPLEXITY = "perplexity"
    TOKEN_ACCURACY = "token_accuracy"  # noqa: S105 - no password
    ACCURACY = "accuracy"
    F1 = "f1"
    EXACT_MATCH = "exact_match"
    ROUGE_1 = "rouge1"
    ROUGE_2 = "rouge2"
    ROUGE_L = "rougeL"
    BLEU = "bleu"
    CHRF = "chrf"
    EXECUTION_ACCURACY = "execution_accuracy"
    VALID_SQL = "valid_sql"
    SQL_EXACT_MATCH = "sql_exact_match"


# What a model tells of the expected answers themselves, without generating any.
OF_TOKENS = (
    EvaluationMetric.LOSS,
    EvaluationMetric.PERPLEXITY,
    EvaluationMetric.TOKEN_ACCURACY,
)
# What `finetune_core.text_to_sql.scoring` tells of generated SQL.
OF_SQL = (
    EvaluationMetric.EXECUTION_ACCURACY,
    EvaluationMetric.VALID_SQL,
    EvaluationMetric.SQL_EXACT_MATCH,
)
LESS_IS_BETTER = {EvaluationMetric.LOSS.value, EvaluationMetric.PERPLEXITY.value}


class TooLong(str, Enum):
    """What becomes of a row that has more tokens than it may.

    An answer is never cut: `truncate_left` shortens a prompt at its beginning, `truncate_right`
    at its end. `split` makes several rows, between turns or anywhere in a plain text.
    """

    DROP = "drop"
    TRUNCATE_LEFT = "truncate_left"
    TRUNCATE_RIGHT = "truncate_right"
    SPLIT = "split"


class Template(str, Enum):
    """How messages become text."""

    AUTO = "auto"
    CHAT = "chat"
    PLAIN = "plain"
    INSTRUCTION = "instruction"


CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
GATE_ALIASES = (CHAMPION, PREVIOUS, CHALLENGER)  # that proof moves, or a person by `hub promote`


class Record(BaseModel):
    """A frozen value that travels between stages, processes and files as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Job(Record):
    """One fine-tuning job: what it is called and where its files are.

    `attempt` numbers the processes that go on with it; none where a job is only looked at.
    """

    id: str
    name: str
    organization: str
    folder: Path
    attempt: int = 0

    @property
    def logs(self) -> Path:
        """Where the job's child processes write their events and their output."""
        return self.folder / "logs"

    @property
    def control(self) -> Path:
        """Where files ask the job to pause, and number its attempts: `trainers.control`."""
        return self.folder / "control"

    @property
    def events(self) -> Path:
        """What has happened to the job, as JSON lines in order."""
        return self.folder / "events.jsonl"

    @property
    def outcome(self) -> Path:
        """How the job ended; not there while it has not."""
        return self.folder / "outcome.json"


class StageRecord(Record):
    """What a stage hands on. `folder` holds its files; `cached` says that it was not redone."""

    folder: Path
    seconds: float = 0.0
    cached: bool = False


class Ledgered(StageRecord):
    """What a stage has made of the input's rows, one by one in `ledger`.

    `rows` are those kept as they were, changed and dropped. Flagged ones are among the kept and
    the changed, one row perhaps under several rules.
    """

    rows: int
    kept: int
    changed: int
    dropped: int
    dropped_by_rule: dict[str, int]
    changed_by_rule: dict[str, int]
    flagged_by_rule: dict[str, int]

    @property
    def ledger(self) -> Path:
        """What became of each input row, and why."""
        return self.folder / "ledger.parquet"


class CleanData(Ledgered):
    """Sanitized rows, a Parquet file a split. `warnings` are of the data as a whole."""

    source_digest: str
    digest: str
    format: str
    train_rows: int
    validation_rows: int
    evaluation_rows: int
    warnings: list[str]

    @property
    def train(self) -> Path:
        """The rows to learn from."""
        return self.folder / "train.parquet"

    @property
    def validation(self) -> Path:
        """The rows held out, by which the best checkpoint is chosen."""
        return self.folder / "validation.parquet"

    @property
    def evaluation(self) -> Path:
        """The rows of the evaluation file; none where none was given."""
        return self.folder / "evaluation.parquet"


class TokenizedSplit(Record):
    """The counts of one tokenized split; `too_long` rows were left out."""

    rows: int
    tokens: int
    trained_tokens: int
    longest: int
    too_long: int


class TokenizedData(Ledgered):
    """Token ids and labels, as memory-mapped Arrow files; the ledger holds sanitizing's too.

    `labels` are the names that a classification's label ids stand for, in their order.
    """

    digest: str
    tokenizer_digest: str
    template: str
    task: Task = Task.CAUSAL
    labels: list[str] = Field(default_factory=list)
    train_split: TokenizedSplit
    validation_split: TokenizedSplit
    evaluation_split: TokenizedSplit | None

    @property
    def train(self) -> Path:
        """The tokens to learn from."""
        return self.folder / "train.arrow"

    @property
    def validation(self) -> Path:
        """The tokens held out, by which the best checkpoint is chosen."""
        return self.folder / "validation.arrow"

    @property
    def measured(self) -> Path:
        """The tokens that models are compared on: the evaluation file's, or those held out."""
        return self.folder / "evaluation.arrow" if self.evaluation_split else self.validation

    @property
    def report(self) -> Path:
        """What a check says of the data, as JSON."""
        return self.folder / "report.json"


class TrainedCheckpoints(StageRecord):
    """A finished training: `folder` holds its checkpoints, one folder a step."""

    steps: int
    epochs: float
    train_loss: float
    trained_tokens: int
    parameters: int
    trained_parameters: int
    batch_size: int
    precision: str
    device: str


class ChosenCheckpoint(StageRecord):
    """The adapter that goes on: `folder` loads with peft, its tokenizer beside it."""

    digest: str
    step: int
    valid_loss: float | None
    reason: str


class EvaluationReport(StageRecord):
    """Base and tuned model side by side on the held-out rows, each value with its interval."""

    rows: int
    generated_rows: int
    base: dict[str, float]
    tuned: dict[str, float]
    base_intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    tuned_intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    change_intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @property
    def change(self) -> dict[str, tuple[float, float, float]]:
        """What the tuned model has more than the base, each with its interval."""
        return {
            name: (self.tuned[name] - self.base[name], *ends)
            for name, ends in self.change_intervals.items()
        }

    @property
    def markdown(self) -> Path:
        """The report for people."""
        return self.folder / "report.md"

    @property
    def sums(self) -> Path:
        """What the tuned model makes of each row, as NumPy keeps it: `evaluation.measuring`."""
        return self.folder / "sums.npy"

    @property
    def samples(self) -> Path:
        """Each held-out row's prompt, expected answer and both generations, as JSON lines."""
        return self.folder / "samples.jsonl"

    def read_samples(self) -> list[dict[str, Any]]:
        """The rows of `samples`."""
        with self.samples.open() as lines:
            return [json.loads(line) for line in lines]


class Broken(Record):
    """A regression case to which a model gives another answer than it must."""

    row: int
    prompt: str
    expected: str
    answer: str


class Challenge(StageRecord):
    """Candidate and incumbent side by side: the champion, or the base where there is none.

    Attributes:
        incumbent: The incumbent's values on the rows of the report.
        change: What the candidate has more, each with its interval, paired over the rows.
        general: The loss of incumbent and candidate on the general rows.
        cases: The regression cases.
        broken: Those that the candidate breaks.
        merge_fault: Why the candidate does not merge.
        unlike: Why the champion cannot be compared with the candidate.
    """

    incumbent: dict[str, float]
    change: dict[str, tuple[float, float, float]]
    general: tuple[float, float] | None = None
    cases: int = 0
    broken: list[Broken] = Field(default_factory=list)
    merge_fault: str | None = None
    unlike: str | None = None


class GateCheck(Record):
    """One thing that a version had to prove, and how it did."""

    name: str
    passed: bool
    detail: str


class Verdict(Record):
    """Whether a version may become the champion, and why.

    `incumbent` is the version that it was compared with, by its number; none where it was the base.
    """

    incumbent: int | None
    checks: list[GateCheck]

    @property
    def passed(self) -> bool:
        """Whether it has proved all that was asked."""
        return all(each.passed for each in self.checks)

    @property
    def reasons(self) -> str:
        """What spoke against it, in one line."""
        return "; ".join(each.detail for each in self.checks if not each.passed)


class GateReport(StageRecord):
    """What a version had to prove, and how it did."""

    verdict: Verdict

    @property
    def markdown(self) -> Path:
        """The report for people."""
        return self.folder / "gate.md"


class RegisteredVersion(StageRecord):
    """One version in the registry; `folder` is what was registered."""

    model_name: str
    version: int
    aliases: list[str]
    uri: str
    run_id: str
    gate: Verdict | None = None

    @property
    def ref(self) -> str:
        """The name that tells it from every other version: NAME@NUMBER."""
        return f"{self.model_name}@{self.version}"


def new_id(kind: str) -> str:
    """An id: what it is of, a dash, and 24 characters of base 32 that sort by time.

    48 bits are the milliseconds since 1970, 72 bits are random.
    """
    return _id(kind, time.time_ns() // 1_000_000, secrets.randbits(72))


def _id(kind: str, milliseconds: int, rest: int) -> str:
    number = milliseconds << 72 | rest
    digits = (ID_ALPHABET[number >> shift & 31] for shift in range(115, -1, -5))
    return f"{kind}-{''.join(digits)}"


def new_job_id() -> str:
    """A job's id, `ftjob-…`."""
    return new_id("ftjob")


def job_id_of(run: UUID, created: datetime) -> str:
    """The id of a flow run's job, always the same.

    Args:
        run: The flow run's id.
        created: When the flow run was made.
    """
    return _id("ftjob", int(created.timestamp() * 1000), run.int & 2**72 - 1)
