"""A trainer that is killed while it saves, again and again, ends with the same bytes."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from finetune_core import child
from finetune_core.child import EventFile
from finetune_core.config import (
    DatasetConfig,
    LoraConfig,
    ModelConfig,
    TokenizationConfig,
    TrainingConfig,
)
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.storage import digest_file
from finetune_core.trainers.checkpoints import ASIDE, STAGING, Checkpoints, finished_training
from finetune_core.trainers.request import TrainRequest
from finetune_core.trainers.supervise import TARGET

STEPS = 8  # an epoch: 64 rows in batches of 8
POLL_SECONDS = 0.002
SEED = 20
KILLS, EPOCHS = 20, 6


class Kill(NamedTuple):
    """One kill: whether it hit a save, and the step of the last whole checkpoint behind it."""

    in_save: bool
    step: int


class Trainer:
    """The real trainer's process, as `supervise` starts it."""

    def __init__(self, request: TrainRequest, folder: Path) -> None:
        self.output = request.output
        place = child.files(folder, "train")
        folder.mkdir(parents=True, exist_ok=True)
        place.request.write_text(request.model_dump_json())
        events = EventFile(place.events)
        offset = events.size()
        with place.log.open("ab") as log:
            self.process = child.start(TARGET, place.request, place.events, output=log)
        while not (said := list(events.read(offset))):  # by then what a kill left is cleared away
            assert self.process.poll() is None, place.log.read_text()
            time.sleep(POLL_SECONDS)
        self.began = said[0][0]["step"]

    def saves(self) -> bool:
        """Whether something is being saved."""
        try:
            return any((self.output / STAGING).iterdir())
        except FileNotFoundError:
            return False

    def wait(self, saving: bool) -> bool:
        """Waits until a save begins or has ended; whether it has, for the training may be over."""
        while self.saves() != saving:
            if self.process.poll() is not None:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def finish(self) -> list[float]:
        """Waits for the end, and gives the seconds of each save."""
        seconds = []
        while self.wait(saving=True):
            began = time.monotonic()
            self.wait(saving=False)
            seconds.append(time.monotonic() - began)
        assert self.process.wait() == 0
        child.end(self.process)
        return seconds

    def kill_in_save(self, delay: float) -> None:
        """Kills it so many seconds into its second save, or a later one that lasts so long."""
        assert self.wait(saving=True)
        assert self.wait(saving=False)
        while self.wait(saving=True):
            time.sleep(delay)
            if self.saves():
                break
        self.process.kill()
        self.process.wait()
        child.end(self.process)


@pytest.fixture(scope="module")
def request_for(tmp_path_factory, orders, tiny_base):
    cache = tmp_path_factory.mktemp("cache")
    dataset = DatasetConfig(path=str(orders), max_samples=72, validation_ratio=0.12)
    clean = sanitize(SanitizeRequest(dataset=dataset, cache=cache / "data"), lambda event: None)
    asked = TokenizeRequest(
        clean=clean,
        tokenizer=tiny_base,
        tokenization=TokenizationConfig(),
        sanitize=dataset.sanitize,
        cache=cache / "tokens",
    )
    tokens = tokenize(asked, lambda event: None)

    def make(output: Path, epochs: int) -> TrainRequest:
        training = TrainingConfig(
            epochs=epochs, batch_size=8, learning_rate=1e-3, save_steps=1, keep_checkpoints=2
        )
        return TrainRequest(
            tokens=tokens,
            model=ModelConfig(name=str(tiny_base)),
            training=training,
            lora=LoraConfig(lora_rank=4, lora_dropout=0.1),
            output=output,
        )

    return make


def final(output: Path) -> tuple[int, str]:
    newest = Checkpoints(output).newest()
    assert newest is not None
    return newest.step, digest_file(newest.folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_killed_while_it_saves_it_ends_with_the_same_bytes(tmp_path, request_for):
    whole = request_for(tmp_path / "whole" / "checkpoints", EPOCHS)
    duration = median(Trainer(whole, tmp_path / "whole" / "logs").finish())
    request = request_for(tmp_path / "killed" / "checkpoints", EPOCHS)
    chance, logs, seen = random.Random(SEED), tmp_path / "killed" / "logs", []
    for _ in range(KILLS):
        trainer = Trainer(request, logs)
        assert trainer.began == (seen[-1].step if seen else 0)
        trainer.kill_in_save(chance.uniform(0, duration))
        newest = Checkpoints(request.output).newest()
        seen.append(Kill(trainer.saves(), newest.step if newest else 0))
    last = Trainer(request, logs)
    assert last.began == seen[-1].step
    last.finish()
    inside = sum(kill.in_save for kill in seen)
    sys.stdout.write(f"a save lasts {duration:.3f} s; {inside} of {KILLS} kills hit one; resumed ")
    sys.stdout.write(f"from {[kill.step for kill in seen]}\n")
    assert final(request.output) == final(whole.output)
    assert finished_training(request.output) is not None
    assert not (request.output / ASIDE).exists(), "a checkpoint was damaged"
    assert 2 * inside >= KILLS
