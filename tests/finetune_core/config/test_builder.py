"""ConfigBuilder puts together what a file would say."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_core.config import ConfigBuilder, PipelineConfig
from finetune_core.exceptions import InvalidConfigError, MissingConfigError
from finetune_core.types import DatasetSource, EvaluationMetric, TrainingMethod


def test_a_builder_gives_the_config_that_parsing_gives():
    built = (
        ConfigBuilder()
        .with_model("some/model", revision="v1")
        .with_dataset(Path("rows.csv"), DatasetSource.LOCAL_FILE, seed=7, evaluation_path="e.csv")
        .with_tokenization(max_length=64)
        .with_training(TrainingMethod.LORA, "/tmp/out", num_epochs=2, batch_size=8)
        .with_lora(r=8, lora_alpha=16)
        .with_evaluation([EvaluationMetric.BLEU], num_samples=10)
        .with_registry("my-model", alias="best")
        .build()
    )
    assert built == PipelineConfig.parse(
        {
            "model": {"name": "some/model", "revision": "v1"},
            "dataset": {
                "path": "rows.csv",
                "source": "local_file",
                "seed": 7,
                "evaluation_path": "e.csv",
            },
            "tokenization": {"max_length": 64},
            "training": {"method": "lora", "output_dir": "/tmp/out", "epochs": 2, "batch_size": 8},
            "lora": {"lora_rank": 8, "lora_alpha": 16},
            "evaluation": {"metrics": ["bleu"], "num_samples": 10},
            "registry": {"model_name": "my-model", "alias": "best"},
        }
    )


def test_what_is_not_said_is_the_default():
    built = ConfigBuilder().with_dataset("x").build()
    assert built == PipelineConfig.parse({"dataset": {"path": "x"}})


def test_a_section_said_twice_is_joined():
    built = ConfigBuilder().with_dataset("x").with_lora(r=8).with_lora(lora_alpha=16).build()
    assert (built.lora.lora_rank, built.lora.lora_alpha) == (8, 16)


def test_a_builder_reports_all_faults_together():
    builder = ConfigBuilder().with_dataset("x").with_training(epochs=11).with_lora(lora_rank=2)
    with pytest.raises(InvalidConfigError) as caught:
        builder.build()
    assert [fault.path for fault in caught.value.faults] == ["training.epochs", "lora.lora_rank"]


def test_a_builder_without_a_dataset_is_incomplete():
    with pytest.raises(MissingConfigError):
        ConfigBuilder().with_model("m").build()
