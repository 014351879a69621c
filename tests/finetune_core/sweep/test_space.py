"""What a sweep may try: values as the config has them, and every fault at once."""

from __future__ import annotations

import pytest

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import ConfigError, InvalidConfigError
from finetune_core.sweep.config import SweepConfig
from finetune_core.sweep.space import (
    TRIAL,
    Choices,
    Goal,
    Span,
    count,
    goal,
    grid,
    resolve,
    trial_config,
)

CONFIG = PipelineConfig.parse({"dataset": {"path": "orders.jsonl"}})
RATE, RANK = "training.learning_rate", "lora.lora_rank"


def sweeping(space, **fields):
    return SweepConfig.parse({"space": space, **fields})


def test_values_are_as_the_config_has_them_and_each_is_tried_once():
    space = resolve(sweeping({RATE: ["1e-4", 0.0001, 5e-4, "auto"], RANK: [8, "16"]}), CONFIG)
    assert space == {RATE: Choices((1e-4, 5e-4, "auto")), RANK: Choices((8, 16))}


def test_a_range_is_of_whole_numbers_where_the_field_is():
    ranges = {
        RATE: {"low": "1e-5", "high": 1e-3, "log": True},
        RANK: {"low": 4, "high": 16, "step": 4},
        "lora.lora_alpha": {"low": 8, "high": 32},
    }
    space = resolve(sweeping(ranges), CONFIG)
    assert space[RATE] == Span(1e-5, 1e-3, log=True, step=None, whole=False)
    assert space[RANK] == Span(4, 16, log=False, step=4, whole=True)
    assert space["lora.lora_alpha"].whole is False


def test_a_grid_has_every_combination_the_last_field_the_fastest():
    tries = sweeping({RATE: [1e-4, 1e-3], RANK: [4, 8]}, sampler="grid")
    space = resolve(tries, CONFIG)
    assert [tuple(each.values()) for each in grid(space)] == [
        (1e-4, 4),
        (1e-4, 8),
        (1e-3, 4),
        (1e-3, 8),
    ]
    assert count(tries, space) == 4


@pytest.mark.parametrize(
    ("space", "fields", "problem"),
    [
        ({"training.learnig_rate": [1]}, {}, "did you mean training.learning_rate?"),
        ({"training": [1]}, {}, "space.training: is not a setting"),
        ({RATE: [5.0]}, {}, "space.training.learning_rate: should be less than or equal to 0.001"),
        ({RATE: ["much"]}, {}, "(got 'much')"),
        ({RATE: {"low": 1e-3, "high": 1e-4}}, {}, "low must be less than high"),
        ({RATE: {"low": 1e-5, "high": 2}}, {}, "should be less than or equal to 0.001"),
        ({"training.warmup_steps": {"low": 0, "high": 9, "log": True}}, {}, "low must be above 0"),
        ({"training.scheduler": {"low": 0, "high": 1}}, {}, "should be 'linear', 'cosine'"),
        ({"lora.use_dora": {"low": 0, "high": 1}}, {}, "takes no numbers"),
        ({RATE: {"low": 1e-5, "high": 1e-3}}, {"sampler": "grid"}, "a grid has lists of values"),
        ({RANK: [4, 8]}, {"sampler": "grid", "trials": 5}, "the grid has 2 combinations"),
        ({"registry.alias": ["a"]}, {}, "is the same for all trials"),
        ({"evaluation.num_samples": [1]}, {}, "is the same for all trials"),
        (
            {"lora.initialization": ["pissa"], "lora.lora_dropout": [0.0, 0.1]},
            {"sampler": "grid"},
            "lora.lora_dropout: must be 0 with pissa",
        ),
    ],
)
def test_wrong_spaces_are_refused_with_the_field(space, fields, problem):
    with pytest.raises(InvalidConfigError) as caught:
        resolve(sweeping(space, **fields), CONFIG)
    assert problem in str(caught.value)


def test_every_fault_is_told_at_once():
    with pytest.raises(InvalidConfigError) as caught:
        resolve(sweeping({"lora.rank": [4], RATE: [7.0, 8.0]}), CONFIG)
    assert [fault.path for fault in caught.value.faults] == [
        "space.lora.rank",
        *[f"space.{RATE}"] * 2,
    ]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"space": {}}, "space"),
        ({"space": {RATE: []}}, f"space.{RATE}"),
        ({"space": {RATE: {"low": 1}}}, f"space.{RATE}.high"),
        ({"space": {RATE: 1e-4}}, f"space.{RATE}"),
        ({"space": {RATE: [1]}, "sampler": "annealing"}, "sampler"),
        ({"space": {RATE: [1]}, "trails": 3}, "trails"),
    ],
)
def test_a_config_of_the_wrong_shape_names_the_field(fields, path):
    with pytest.raises(InvalidConfigError) as caught:
        SweepConfig.parse(fields)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_a_trials_version_faces_no_gate_and_bears_the_sweeps_name():
    config = trial_config(CONFIG, {RATE: 1e-4, "dataset.sanitize.near_threshold": 0.8})
    assert config.training.learning_rate == 1e-4
    assert config.dataset.sanitize.near_threshold == 0.8
    assert config.registry.model_name == "tiny_base-orders"
    assert config.registry.alias == TRIAL
    assert not config.registry.gate.enabled
    assert config.lora == CONFIG.lora


def test_values_that_exclude_each_other_make_no_trial():
    with pytest.raises(ConfigError, match="pissa"):
        trial_config(CONFIG, {"lora.initialization": "pissa"})


def test_the_best_is_by_the_loss_unless_somebody_says_otherwise():
    assert goal(sweeping({RATE: [1e-4]}), CONFIG) == Goal("loss", lower=True)
    apart = PipelineConfig.parse({"dataset": {"path": "a.jsonl", "evaluation_path": "b.jsonl"}})
    assert goal(sweeping({RATE: [1e-4]}), apart) == Goal("valid_loss", lower=True)
    asked = sweeping({RATE: [1e-4]}, metric="exact_match")
    assert goal(asked, CONFIG) == Goal("exact_match", lower=False)
    with pytest.raises(InvalidConfigError, match="is not measured"):
        goal(sweeping({RATE: [1e-4]}, metric="beauty"), CONFIG)


def test_of_equal_trials_the_first_is_the_best():
    assert Goal("loss", lower=True).best({0: 2.0, 1: 1.0, 2: 1.0}) == 1
    assert Goal("bleu", lower=False).best({0: 2.0, 1: 1.0}) == 0
    assert Goal("loss", lower=True).best({}) is None
