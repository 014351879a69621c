"""Jobs on this machine."""

from __future__ import annotations

import pytest

from finetune_core.config.sections import TokenizationConfig
from finetune_core.data.encode import load_tokenizer, make_encoder
from finetune_core.data.formats import Conversation, Message
from finetune_core.exceptions import IncompatibleConfigError
from finetune_core.types import Task
from finetune_service.jobs.providers import open_provider
from finetune_service.jobs.states import Status
from tests.conftest import ROOT
from tests.finetune_service.jobs.providers.conftest import MESSAGES


def test_who_was_killed_before_the_process_began_starts_the_same_job(make):
    storage = make("local")
    written = "ftjob-06gzty25r5v9nns1bbv75g4k"
    storage.change(job_id=written)
    model = open_provider(storage)
    assert model.retrieve_finetuning_job().status is Status.VALIDATING_FILES
    assert model.create_fine_tuning_job().job_id == written
    assert model.cancel_finetuning_job().status is Status.CANCELLED


def test_a_folder_of_its_own_is_refused(make, tmp_path):
    config = {"training": {"output_dir": str(tmp_path / "out")}}
    with pytest.raises(IncompatibleConfigError, match=r"training\.output_dir"):
        open_provider(make("local", config)).create_fine_tuning_job()


def test_it_counts_as_its_job_does(make):
    storage = make("local")
    turns = [
        Message(**turn, trained=turn["role"] == "assistant", tool_calls=None) for turn in MESSAGES
    ]
    tokenizer = load_tokenizer(ROOT / "examples/tiny_base")
    encoder = make_encoder(tokenizer, TokenizationConfig(), Task.CAUSAL)
    [([tokens], _)] = encoder.encode([Conversation(turns)], ["row 1"])
    assert open_provider(storage).count_tokens(MESSAGES) == len(tokens.ids)
