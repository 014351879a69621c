"""The study of a sweep: Optuna's, kept in a file, so that a sweep that was killed goes on.

The trials' values are Optuna's, and what they lead to; the jobs that they are have folders of their
own. Whatever is decided is written first, and then done.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from finetune_core.sweep.config import SweepConfig
from finetune_core.sweep.space import Assignment, Choices, Goal, Space, count, grid

STOPPED, PROBLEM = "stopped_at", "problem"  # attributes of a trial
EPOCH = 1000  # Optuna counts validations in whole steps: thousandths of an epoch
STARTUP = (3, 10)  # trials that are drawn before TPE has something to go by


class State(str, Enum):
    """How it stands with a trial."""

    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"


STATES = {
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETED,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}


class Tried(NamedTuple):
    """What the study knows of one trial.

    Attributes:
        number: From 0 on.
        state: How it stands with it.
        values: Those of its fields.
        value: What its metric has come to; of one that was stopped, none.
        stopped_at: The epoch after which it was to stop.
        problem: Why it has failed.
    """

    number: int
    state: State
    values: Assignment
    value: float | None
    stopped_at: float | None
    problem: str | None


class Study:
    """The study of one sweep. One thread at a time may use it.

    Args:
        file: Where it is kept; it is made where it is not there.
        sweep: How trials are chosen.
        space: What they are chosen from.
        goal: What makes one the best.
    """

    def __init__(self, file: Path, sweep: SweepConfig, space: Space, goal: Goal) -> None:
        optuna.logging.disable_default_handler()
        optuna.logging.enable_propagation()
        self._sweep, self._space, self._goal = sweep, space, goal
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=sweep.prune_after_trials,
            n_warmup_steps=round(EPOCH * sweep.prune_after_epochs),
        )
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file))),
            study_name="sweep",
            direction="minimize" if goal.lower else "maximize",
            pruner=pruner if sweep.prune else optuna.pruners.NopPruner(),
            sampler=self._sampler(0),
            load_if_exists=True,
        )
        if sweep.sampler == "grid":
            for values in grid(space):
                self._study.enqueue_trial(values, skip_if_exists=True)

    def ask(self) -> Tried | None:
        """The next trial, or none where there are enough."""
        number = len(self.trials())
        if number >= count(self._sweep, self._space):
            return None
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        self._assign(trial)
        return self.trial(trial.number)

    def trials(self) -> list[Tried]:
        """All that were asked for, in order."""
        return [
            Tried(
                number=each.number,
                state=STATES[each.state],
                values=dict(each.params),
                value=each.value if each.state is TrialState.COMPLETE else None,
                stopped_at=each.user_attrs.get(STOPPED),
                problem=each.user_attrs.get(PROBLEM),
            )
            for each in self._study.get_trials(deepcopy=False)
            if each.state is not TrialState.WAITING
        ]

    def trial(self, number: int) -> Tried:
        """One trial."""
        return self.trials()[number]

    def go_on(self) -> list[Tried]:
        """The trials that have not come to their end, as their process has before them."""
        running = [each.number for each in self.trials() if each.state is State.RUNNING]
        for number in running:
            self._assign(self._live(number))  # it may have been killed amid the choosing
        return [self.trial(number) for number in running]

    def report(self, number: int, epoch: float, valid_loss: float) -> bool:
        """Keeps what a running trial has validated.

        Args:
            number: The trial's.
            epoch: How long it has trained.
            valid_loss: What the validation came to.

        Returns:
            Whether it is to be stopped, as it is worse than others were then.
        """
        step = round(EPOCH * epoch)
        trial = self._live(number)
        if step in self._frozen(number).intermediate_values:
            return False  # it went on from a checkpoint before
        # Trials may be compared by what is better when it is more: pruning goes by the same sense.
        trial.report(valid_loss if self._goal.lower else -valid_loss, step)
        if not trial.should_prune():
            return False
        trial.set_user_attr(STOPPED, epoch)
        return True

    def completed(self, number: int, value: float) -> None:
        """Closes a trial that has been measured."""
        self._study.tell(number, value)

    def pruned(self, number: int) -> None:
        """Closes a trial that was stopped."""
        self._study.tell(number, state=TrialState.PRUNED)

    def failed(self, number: int, problem: str) -> None:
        """Closes a trial that has failed."""
        self._live(number).set_user_attr(PROBLEM, problem)
        self._study.tell(number, state=TrialState.FAIL)

    def best(self) -> Tried | None:
        """The best of the completed trials."""
        found = {each.number: each.value for each in self.trials() if each.value is not None}
        number = self._goal.best(found)
        return None if number is None else self.trial(number)

    def _assign(self, trial: Trial) -> None:
        for path, of in self._space.items():
            if isinstance(of, Choices):
                trial.suggest_categorical(path, of.values)
            elif of.whole:
                step = int(of.step or 1)
                trial.suggest_int(path, int(of.low), int(of.high), step=step, log=of.log)
            else:
                trial.suggest_float(path, of.low, of.high, step=of.step, log=of.log)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler for one trial: what it draws does not depend on who drew the ones before."""
        seed = int(np.random.SeedSequence([self._sweep.seed, number]).generate_state(1)[0])
        if self._sweep.sampler == "tpe":
            least, most = STARTUP
            startup = min(most, max(least, count(self._sweep, self._space) // 4))
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        return optuna.samplers.RandomSampler(seed=seed)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _live(self, number: int) -> Trial:
        return Trial(self._study, self._frozen(number)._trial_id)
