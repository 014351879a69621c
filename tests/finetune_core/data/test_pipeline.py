"""DataPipeline and its short forms: from a file to the tokens that a trainer takes."""

from __future__ import annotations

import json

import pytest

from finetune_core import (
    DataPipeline,
    format_instruction_dataset,
    prepare_dataset,
    quick_load,
)
from finetune_core.config import DatasetConfig
from finetune_core.config.sections import TokenizationConfig
from finetune_core.exceptions import FineTuneError, NoTextColumnsError

ROWS = [{"prompt": f"what is {n}?", "completion": f"{n} it is"} for n in range(40)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [*ROWS, ROWS[0], {"prompt": "none", "completion": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pipeline(file, tokenizer):
    return DataPipeline(DatasetConfig(path=str(file)), TokenizationConfig(), tokenizer)


def answers(rows, tokenizer):
    trained = [[label for label in row["labels"] if label != -100] for row in rows]
    return [tokenizer.decode(each, skip_special_tokens=True) for each in trained]


def test_a_run_gives_rows_to_learn_from_and_rows_held_out(pipeline, tokenizer):
    splits = pipeline.run()
    assert set(splits) == {"train", "validation"}
    learned, held = (answers(splits[name], tokenizer) for name in ("train", "validation"))
    assert sorted(learned + held) == sorted(row["completion"] for row in ROWS)
    for row in splits["train"]:
        assert set(row) == {"input_ids", "attention_mask", "labels"}
        assert row["attention_mask"] == [1] * len(row["input_ids"]) == [1] * len(row["labels"])


def test_without_a_split_all_rows_come_in_their_order(pipeline, tokenizer):
    rows = pipeline.run(split_for_validation=False)
    assert answers(rows, tokenizer) == [row["completion"] for row in ROWS]


def test_statistics_are_of_the_rows_that_are_left(pipeline):
    with pytest.raises(FineTuneError, match="has not been run"):
        pipeline.get_statistics()
    rows = pipeline.run(split_for_validation=False)
    statistics = pipeline.get_statistics()
    assert statistics["num_samples"] == 40
    assert statistics["avg_words"] == 6  # "what is 7?" and "7 it is"
    assert statistics["avg_tokens"] == sum(map(len, rows["input_ids"])) / 40
    assert statistics["max_tokens"] == max(map(len, rows["input_ids"]))
    assert (statistics["rows"], statistics["dropped"]) == (42, 2)


def test_what_is_saved_is_loaded_by_datasets(pipeline, tmp_path):
    from datasets import load_from_disk

    with pytest.raises(FineTuneError, match="has not been run"):
        pipeline.save_processed(tmp_path / "processed")
    splits = pipeline.run()
    pipeline.save_processed(tmp_path / "processed")
    loaded = load_from_disk(str(tmp_path / "processed"))
    assert loaded["train"]["input_ids"][:] == splits["train"]["input_ids"][:]
    assert loaded["validation"]["labels"][:] == splits["validation"]["labels"][:]


def test_tokens_outlive_the_pipeline(file, tokenizer):
    rows = quick_load(file, tokenizer)
    assert len(answers(rows, tokenizer)) == 40


def test_quick_load_reads_so_many_rows_and_leaves_out_what_is_too_long(file, tokenizer):
    assert len(quick_load(file, tokenizer, max_samples=7)) == 7
    longest = max(map(len, quick_load(file, tokenizer)["input_ids"]))
    short = quick_load(file, tokenizer, max_length=longest - 1)
    assert 0 < len(short) < 40


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_prepare_dataset_holds_out_the_asked_share(file, tokenizer, ratio):
    config = DatasetConfig(path=str(file))
    splits = prepare_dataset(config, TokenizationConfig(), tokenizer, True, ratio)
    deviation = (40 * ratio * (1 - ratio)) ** 0.5
    assert abs(len(splits["validation"]) - 40 * ratio) < 4 * deviation
    assert len(splits["train"]) + len(splits["validation"]) == 40
    whole = prepare_dataset(config, TokenizationConfig(), tokenizer, split_for_validation=False)
    assert set(whole) == {"train"}
    assert len(whole["train"]) == 40


def test_instructions_become_one_text_in_alpacas_words():
    from datasets import Dataset

    raw = Dataset.from_list(
        [
            {"instruction": "Add.", "input": "1 and 2", "response": "3"},
            {"instruction": "Greet.", "input": "", "response": "Hello."},
        ]
    )
    formatted = format_instruction_dataset(raw)
    assert formatted.column_names == ["text"]
    first, second = formatted["text"][:]
    assert first.endswith("### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n3")
    assert second.endswith("### Instruction:\nGreet.\n\n### Response:\nHello.")
    assert "paired with an input" in first
    assert "Input" not in second
    with pytest.raises(NoTextColumnsError, match="prompt"):
        format_instruction_dataset(Dataset.from_list([{"prompt": "a"}]))
