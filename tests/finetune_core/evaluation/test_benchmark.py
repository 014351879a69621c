"""BenchmarkRunner on models that are loaded: what it measures, and that it leaves them alone."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from finetune_core import Dataset, prepare_dataset
from finetune_core.config import DatasetConfig, EvaluationConfig, TokenizationConfig
from finetune_core.data.encode import load_tokenizer
from finetune_core.evaluation.benchmark import BenchmarkRunner
from finetune_core.exceptions import DatasetFormatError, EmptyDatasetError

ROWS = [
    {"prompt": "please bring me 7 red chairs", "completion": "item: chair; count: 7"},
    {"prompt": "a lamp", "completion": "item: lamp; count: 1"},
    {"prompt": "bring 9 desks", "completion": "item: desk; count: 9"},
    {"prompt": "bring 9 desks", "completion": "item: desk; count: 9"},
]
ORDERS = Dataset("orders", ROWS)


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


def load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def base(tiny_base):
    return load(tiny_base)


def adapted(model):
    """An adapter that changes what the model says: its weights are random, from a seed."""
    import peft

    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


@pytest.fixture(scope="module")
def tuned(tiny_base):
    return adapted(load(tiny_base))


def runner(tokenizer, *metrics, tokenization=None, emit=None, **settings):
    settings = {"num_samples": 8, "batch_size": 2, "generation_max_length": 12} | settings
    config = EvaluationConfig(metrics=list(metrics), **settings)
    return BenchmarkRunner(config, tokenizer, tokenization, emit)


def answers(model, tokenizer, rows=ROWS, tokens=12):
    """Each prompt by itself, in the shipped template, written out."""
    said = []
    for row in rows:
        text = f"<|bos|><|start|>user\n{row['prompt']}<|end|>\n<|start|>assistant\n"
        asked = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            out = model.eval().generate(
                **asked, do_sample=False, max_new_tokens=tokens, pad_token_id=0
            )
        new = out[0, asked["input_ids"].shape[1] :]
        said.append(tokenizer.decode(new, skip_special_tokens=True))
    return said


def test_every_row_counts_and_the_scores_are_of_the_models_own_answers(base, tokenizer):
    result = runner(tokenizer, "exact_match", "rougeL").evaluate(base, ORDERS, label="the base")
    right = [
        said.strip() == row["completion"]
        for said, row in zip(answers(base, tokenizer), ROWS, strict=True)
    ]
    assert (result.label, result.samples) == ("the base", 4)
    assert list(result.scores) == ["exact_match", "rougeL"]
    assert result.scores["exact_match"] == pytest.approx(sum(right) / 4)
    for name, (low, high) in result.intervals.items():
        assert low <= result.scores[name] <= high


def test_loss_and_perplexity_are_over_the_tokens_of_the_expected_answers(base, tokenizer):
    result = runner(tokenizer, "perplexity", "loss").evaluate(base, ORDERS)
    total = count = 0
    for row in ROWS:
        head = f"<|bos|><|start|>user\n{row['prompt']}<|end|>\n<|start|>assistant\n"
        ids = [
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (head, f"{row['completion']}<|end|>")
        ]
        with torch.inference_mode():
            scores = base(input_ids=torch.tensor([ids[0] + ids[1]])).logits[0].log_softmax(-1)
        for place, token in enumerate(ids[1], start=len(ids[0])):
            total -= scores[place - 1, token].item()
            count += 1
    assert list(result.scores) == ["perplexity", "loss"]
    assert result.samples == 4
    assert result.scores["loss"] == pytest.approx(total / count, rel=1e-4)
    assert result.scores["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    low, high = result.intervals["loss"]
    assert low < result.scores["loss"] < high
    assert result.intervals["perplexity"] == pytest.approx((math.exp(low), math.exp(high)))


def test_only_the_first_rows_are_measured_and_progress_is_told(base, tokenizer):
    events = []
    few = runner(tokenizer, "bleu", "loss", num_samples=2, emit=events.append)
    result = few.evaluate(base, ORDERS)
    assert result == runner(tokenizer, "bleu", "loss").evaluate(base, Dataset("two", ROWS[:2]))
    assert result.samples == 2
    assert (events[-1]["done"], events[-1]["total"]) == (4, 4)


def test_a_comparison_tells_what_has_changed(base, tuned, tokenizer):
    report = runner(tokenizer, "loss", "chrf").run_comparison(base, tuned, ORDERS)
    one = runner(tokenizer, "loss", "chrf").evaluate(base, ORDERS)
    other = runner(tokenizer, "loss", "chrf").evaluate(tuned, ORDERS)
    assert report.base.scores == one.scores
    assert report.tuned.scores == other.scores
    assert report.improvements == {
        name: other.scores[name] - one.scores[name] for name in ("loss", "chrf")
    }
    assert report.improvements["loss"] != 0
    lines = report.summary().splitlines()
    assert lines[0] == "| metric | base | tuned | change |"
    low, high = one.intervals["loss"]
    assert f"| loss | {one.scores['loss']:.4f} [{low:.3f}, {high:.3f}] | " in lines[2]
    assert lines[2].endswith(f" {report.improvements['loss']:+.4f} |")


def test_a_base_that_carries_the_adapter_is_measured_without_it(base, tiny_base, tokenizer):
    carrier = load(tiny_base)
    tuned = adapted(carrier)
    report = runner(tokenizer, "loss").run_comparison(carrier, tuned, ORDERS)
    assert report.base.scores == runner(tokenizer, "loss").evaluate(base, ORDERS).scores
    assert report.improvements["loss"] != 0


def test_model_and_tokenizer_are_left_as_they_were(tiny_base, tokenizer):
    model, mine = load(tiny_base).train(), copy.deepcopy(tokenizer)
    mine.padding_side = "right"
    runner(mine, "bleu").evaluate(model, ORDERS)
    assert model.training
    assert mine.padding_side == "right"


def test_a_file_a_section_and_prepared_tokens_measure_as_the_rows_do(base, tokenizer, tmp_path):
    file = tmp_path / "orders.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    renamed = [{"q": row["prompt"], "a": row["completion"]} for row in ROWS[:3]]
    other = tmp_path / "renamed.json"
    other.write_text(json.dumps(renamed))
    section = DatasetConfig(path=str(other), input_field="q", output_field="a")
    tokens = prepare_dataset(
        DatasetConfig(path=str(file)), TokenizationConfig(), tokenizer, split_for_validation=False
    )["train"]
    measured = [
        runner(tokenizer, "loss", "chrf").evaluate(base, rows)
        for rows in (Dataset("orders", ROWS[:3]), file, str(file), section, tokens)
    ]
    assert all(result == measured[0] for result in measured)


def test_rows_without_an_answer_or_too_long_are_left_out(base, tokenizer):
    long = {"prompt": "bring " * 200, "completion": "item: desk"}
    rows = [*ROWS[:2], {"prompt": "a lamp", "completion": " "}, long]
    tokenization = TokenizationConfig(max_length=64)
    result = runner(tokenizer, "bleu", tokenization=tokenization).evaluate(
        base, Dataset("rows", rows)
    )
    assert result == runner(tokenizer, "bleu").evaluate(base, Dataset("rows", ROWS[:2]))


def test_plain_texts_have_a_perplexity_but_no_answers(base, tokenizer):
    texts = Dataset("texts", [{"text": "bring two desks"}, {"text": "a lamp"}])
    result = runner(tokenizer, "perplexity").evaluate(base, texts)
    assert result.samples == 2
    assert result.scores["perplexity"] > 1
    with pytest.raises(EmptyDatasetError, match="ask nothing"):
        runner(tokenizer, "accuracy").evaluate(base, texts)


@pytest.mark.parametrize(
    ("rows", "error", "problem"),
    [
        ([], EmptyDatasetError, "has no rows"),
        ([{"prompt": "a", "completion": ""}], EmptyDatasetError, "no row is left"),
        ([*ROWS, {"prompt": "a"}], DatasetFormatError, r"rows, row 5: has no field 'completion'"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused(base, tokenizer, rows, error, problem):
    with pytest.raises(error, match=problem):
        runner(tokenizer, "accuracy").evaluate(base, Dataset("rows", rows))
