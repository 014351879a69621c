"""What may go wrong with a job, and what is done about it: the one place for both.

`docs/reliability.md` has this as a table.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_core.config.settings import Settings

# Prefect's worker falls over a run that comes back before it has let go of the run's last process.
REST_SECONDS = 20


@dataclass(frozen=True)
class Failure:
    """A failure, and the policy for it.

    Attributes:
        name: How people call it.
        recognised: By what.
        done: What is done without being asked.
        event: How the job's events name that.
        proof: The test that does it for real, as `file::name`.
        backoff: The seconds before each retry; there are so many.
        limit: What else limits how often it is done.
    """

    name: str
    recognised: str
    done: str
    event: str
    proof: str
    backoff: tuple[int, ...] = ()
    limit: str = ""

    def row(self) -> tuple[str, ...]:
        """Its row in the table."""
        limit = self.limit or f"{len(self.backoff)} times"
        if self.limit and self.backoff:
            limit = f"{len(self.backoff)} times {self.limit}"
        backoff = f"{', '.join(map(str, self.backoff))} s" if self.backoff else ""
        return self.name, self.recognised, self.done, limit, backoff, self.event, f"`{self.proof}`"


CRASHED = Failure(
    name="trainer crashed or killed, or one of its processes; likewise of any other stage",
    recognised="it ends without a result, or with an error that no input explains",
    done="the stage is tried again; a training goes on from its last checkpoint",
    backoff=(2, 30),
    event="retried",
    proof="tests/integration/test_disturbed.py::"
    "test_a_killed_trainer_goes_on_from_its_checkpoint_to_the_same_bytes",
)
OUT_OF_MEMORY = Failure(
    name="out of memory",
    recognised="the device's or the allocator's error; SIGKILL while the kernel's count of such "
    "kills rises",
    done="half the rows at once, a step's rows stay the same; at one row, activations are computed "
    "twice; from the last checkpoint",
    limit="until it fits, or nothing is left",
    event="eased",
    proof="tests/finetune_core/trainers/test_supervise.py::"
    "test_memory_that_runs_out_halves_the_rows_at_once_and_nothing_else",
)
DIVERGED = Failure(
    name="loss, gradient or weights not finite",
    recognised="at each logged step, and of the weights before each checkpoint",
    done="half the learning rate, from the last checkpoint, which is always finite",
    limit="once",
    event="eased",
    proof="tests/finetune_core/trainers/test_supervise.py::"
    "test_a_loss_that_is_no_number_halves_the_rate_from_the_last_checkpoint_on",
)
DISK_FULL = Failure(
    name="disk nearly full",
    recognised="the room for the next checkpoint, held ahead, is not to be had; or a write fails "
    "and the disk is full",
    done="the half-written is removed, the last checkpoint stays, the job pauses; with room again, "
    "resume it",
    limit="each time",
    event="paused",
    proof="tests/finetune_core/trainers/test_room.py::"
    "test_a_training_on_a_full_disk_pauses_behind_a_save_and_ends_with_the_same_bytes",
)
SILENT = Failure(
    name="trainer, or another stage, hangs",
    recognised="no event for `FINETUNE_SILENCE_MINUTES` "
    f"({Settings.model_fields['silence_minutes'].default}; 0: never)",
    done="its stacks are written into its log, it is ended with all below it and tried again as if "
    "it had crashed",
    backoff=CRASHED.backoff,
    event="retried",
    proof="tests/finetune_core/test_child.py::"
    "test_a_silent_child_leaves_its_stacks_in_the_log_and_is_ended",
)
BAD_INPUT = Failure(
    name="data or config wrong",
    recognised="an `InputError`",
    done="the job fails and says what is wrong, and where",
    limit="no retry",
    event="failed",
    proof="tests/integration/test_bad_input.py::test_five_faults_are_shown_together",
)
OTHER_ORIGIN = Failure(
    name="checkpoint of other data or settings",
    recognised="the checkpoint's manifest, against what the training is to go on with",
    done="the job fails and names each difference",
    limit="no retry",
    event="failed",
    proof="tests/finetune_core/trainers/test_origin.py::"
    "test_with_other_settings_it_is_refused_and_every_difference_is_named",
)
DAMAGED = Failure(
    name="checkpoint damaged",
    recognised="a digest in its manifest, before it is gone on from",
    done="it is set aside; the one before is taken",
    limit="each time",
    event="set_aside",
    proof="tests/finetune_core/trainers/test_checkpoints.py::"
    "test_the_newest_is_the_last_that_is_undamaged",
)
MLFLOW_AWAY = Failure(
    name="MLflow away",
    recognised="it does not answer",
    done="what is to be told waits on the disk, and is sent in order when MLflow is back; where a "
    "job needs it, to register its model, a deployed one waits and gives its place to others",
    limit="none",
    event="waits",
    proof="tests/finetune_core/hub/test_tracking.py::"
    "test_a_hub_that_goes_away_in_between_gets_the_rest_in_order",
)
PREFECT_AWAY = Failure(
    name="Prefect's server away",
    recognised="it does not answer",
    done="trainings go on; new jobs are kept and handed over, once, when it is back",
    limit="none",
    event="queued",
    proof="tests/finetune_service/api/test_fine_tuning.py::"
    "test_without_prefect_nothing_is_lost_or_doubled",
)
WORKER_LOST = Failure(
    name="worker or machine lost",
    recognised="no heartbeat of the run, within two minutes",
    done="the run is started again and goes on from its last checkpoint",
    backoff=(REST_SECONDS, 30, 60, 120, 300),
    limit="in a row without a new checkpoint; then the job fails",
    event="restarted",
    proof="tests/integration/test_worker_lost.py::test_a_lost_worker_s_job_goes_on",
)
WORKER_STOPPED = Failure(
    name="worker stopped in order",
    recognised="the signal that it gets",
    done="its trainings save a checkpoint and are handed back; another worker takes them up",
    limit="each time",
    event="handed_back",
    proof="tests/integration/test_worker_stop.py::test_a_stopped_worker_hands_its_jobs_back",
)
TWO_PROCESSES = Failure(
    name="two processes on one job",
    recognised="the attempts' numbers in the job's folder",
    done="the one of the higher number goes on; the other was taken for dead, and writes nothing",
    limit="each time",
    event="",
    proof="tests/finetune_core/test_jobs.py::test_a_process_that_was_taken_for_dead_may_not_write",
)

FAILURES = (
    CRASHED,
    OUT_OF_MEMORY,
    DIVERGED,
    DISK_FULL,
    SILENT,
    BAD_INPUT,
    OTHER_ORIGIN,
    DAMAGED,
    MLFLOW_AWAY,
    PREFECT_AWAY,
    WORKER_LOST,
    WORKER_STOPPED,
    TWO_PROCESSES,
)
HEAD = ("what happens", "recognised by", "what is done", "how often", "after", "event", "proved by")


def table() -> str:
    """All of it as a table in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *(failure.row() for failure in FAILURES)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
