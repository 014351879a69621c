"""Progress and results are told from what the training has written."""

from __future__ import annotations

import json

from finetune_service.jobs.progress import progress, results_table, step_metrics, training_events


def write(folder, *events):
    file = training_events(folder)
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as lines:
        lines.writelines(json.dumps(event) + "\n" for event in events)


def step(number, time, loss=1.0):
    return {"type": "step", "step": number, "total_steps": 100, "time": time, "train_loss": loss}


def test_nothing_before_the_training_has_begun(tmp_path):
    assert progress(tmp_path) is None
    assert step_metrics(tmp_path) == []


def test_the_end_is_told_by_the_speed_since_it_went_on(tmp_path):
    write(tmp_path, {"type": "began", "step": 0, "total_steps": 100, "time": 0.0})
    assert progress(tmp_path) == (0, 100, None)
    write(tmp_path, step(5, 10.0), step(10, 20.0))
    assert progress(tmp_path) == (10, 100, 20 + 90 * 2)
    write(tmp_path, {"type": "began", "step": 10, "total_steps": 100, "time": 5000.0})
    write(tmp_path, step(20, 5010.0))
    found = progress(tmp_path)
    assert found == (20, 100, 5010 + 80)
    assert found.share == 0.2
    write(tmp_path, step(100, 5090.0))
    assert progress(tmp_path) == (100, 100, None)


def test_a_step_that_was_done_again_counts_as_it_was_done_last(tmp_path):
    write(tmp_path, step(1, 1.0, 4.0), step(2, 2.0, 3.0), step(2, 3.0, 2.5))
    write(
        tmp_path,
        {"type": "validation", "step": 2, "valid_loss": 2.0, "valid_token_accuracy": 0.5},
        {"type": "validation", "step": 3, "valid_loss": float("nan"), "valid_token_accuracy": 0.0},
    )
    assert results_table(step_metrics(tmp_path)).decode().splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,4.0,,,",
        "2,2.5,,2.0,0.5",
        "3,,,,0.0",
    ]
