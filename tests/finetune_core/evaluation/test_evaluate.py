"""Both models for real: what is measured, on which rows, and what is asked of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from finetune_core.config import (
    DatasetConfig,
    EvaluationConfig,
    ModelConfig,
    TokenizationConfig,
)
from finetune_core.data.encode import load_tokenizer
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.evaluation.evaluate import evaluate
from finetune_core.evaluation.request import EvaluateRequest
from finetune_core.types import ChosenCheckpoint

ROWS = [{"prompt": f"bring {n} desks", "completion": f"item: desk; count: {n}"} for n in range(6)]
HELD = [
    {"prompt": "please bring me 7 red chairs", "completion": "item: chair; count: 7"},
    {"prompt": "a lamp", "completion": "item: lamp; count: 1"},
    {"prompt": "bring 9 desks", "completion": "item: desk; count: 9"},
]
MEASURED = [{"prompt": "bring 11 lamps", "completion": "item: lamp; count: 11"}]


def ignore(event):
    """An observer that does nothing."""


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, tiny_base):
    """An adapter that changes what the model says: its weights are random, from a seed."""
    import peft
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_base / name, folder)
    return ChosenCheckpoint(folder=folder, digest="0", step=1, valid_loss=1.0, reason="the only")


@pytest.fixture
def evaluated(tmp_path, tiny_base, chosen):
    """Evaluates on rows that were held out, or on those of an evaluation file."""

    def run(rows=ROWS, held=HELD, measured=None, emit=ignore, tokenization=None, **evaluation):
        files = {"path": rows, "validation_path": held, "evaluation_path": measured}
        paths = {name: tmp_path / f"{name}.jsonl" for name, lines in files.items() if lines}
        for name, path in paths.items():
            path.write_text("".join(json.dumps(row) + "\n" for row in files[name]))
        dataset = DatasetConfig(**{name: str(path) for name, path in paths.items()})
        model = ModelConfig(name=str(tiny_base))
        tokens = tokenize(
            TokenizeRequest(
                clean=sanitize(SanitizeRequest(dataset=dataset, cache=tmp_path / "data"), ignore),
                tokenizer=Path(model.name),
                tokenization=TokenizationConfig(**tokenization or {}),
                sanitize=dataset.sanitize,
                cache=tmp_path / "tokens",
            ),
            ignore,
        )
        settings = {"num_samples": 8, "batch_size": 2, "generation_max_length": 8}
        request = EvaluateRequest(
            tokens=tokens,
            chosen=chosen,
            model=model,
            evaluation=EvaluationConfig(**settings | evaluation),
            output=tmp_path / "report",
        )
        return tokens, evaluate(request, emit)

    return run


def prompt_of(row):
    """What the shipped template asks."""
    return f"<|bos|><|start|>user\n{row['prompt']}<|end|>\n<|start|>assistant\n"


def test_the_held_out_rows_are_asked_and_their_answers_expected(evaluated):
    _, report = evaluated()
    samples = report.read_samples()
    assert (report.rows, report.generated_rows) == (3, 3)
    assert [sample["row"] for sample in samples] == [1, 2, 3]
    assert [sample["prompt"] for sample in samples] == [prompt_of(row) for row in HELD]
    assert [sample["expected"] for sample in samples] == [row["completion"] for row in HELD]


def test_an_evaluation_file_is_measured_in_place_of_the_held_out_rows(evaluated):
    tokens, report = evaluated(measured=MEASURED)
    assert (report.rows, report.generated_rows) == (1, 1)
    assert report.read_samples()[0]["prompt"] == prompt_of(MEASURED[0])
    assert tokens.validation_split.rows == 3


def test_the_loss_and_the_answers_are_those_of_each_model_alone(evaluated, tiny_base, chosen):
    import peft
    from transformers import AutoModelForCausalLM

    tokens, report = evaluated()
    rows = list(Dataset.from_file(str(tokens.measured)))
    tokenizer = load_tokenizer(tiny_base)
    base = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    alone = AutoModelForCausalLM.from_pretrained(tiny_base)
    tuned = peft.PeftModel.from_pretrained(alone, chosen.folder).eval()
    for name, model in (("base", base), ("tuned", tuned)):
        total = count = hits = 0
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            with torch.inference_mode():
                scores = model(input_ids=ids).logits[0].log_softmax(-1)
            for place, label in enumerate(row["labels"]):
                if label != -100:
                    total -= scores[place - 1, label].item()
                    hits += scores[place - 1].argmax().item() == label
                    count += 1
        values = getattr(report, name)
        assert values["loss"] == pytest.approx(total / count, rel=1e-4)
        assert values["token_accuracy"] == pytest.approx(hits / count)
        for row, sample in zip(HELD, report.read_samples(), strict=True):
            asked = tokenizer(prompt_of(row), add_special_tokens=False, return_tensors="pt")
            with torch.inference_mode():
                said = model.generate(**asked, do_sample=False, max_new_tokens=8, pad_token_id=0)
            new = said[0, asked["input_ids"].shape[1] :]
            assert sample[name] == tokenizer.decode(new, skip_special_tokens=True)
    assert report.base["loss"] != pytest.approx(report.tuned["loss"], rel=1e-3)


def test_the_metrics_compare_the_answers_with_what_was_expected(evaluated):
    _, report = evaluated(metrics=["exact_match"], generation_max_length=32)
    for name in ("base", "tuned"):
        right = [each[name].strip() == each["expected"] for each in report.read_samples()]
        assert getattr(report, name)["exact_match"] == pytest.approx(sum(right) / 3)


def test_only_the_first_rows_are_answered_but_all_are_measured(evaluated):
    events = []
    _, report = evaluated(num_samples=2, emit=events.append)
    assert (report.rows, report.generated_rows) == (3, 2)
    assert [sample["row"] for sample in report.read_samples()] == [1, 2]
    assert (events[-1]["done"], events[-1]["total"]) == (10, 10)


def turns(*contents):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": c} for n, c in enumerate(contents)]}


def test_of_a_conversation_the_last_answer_is_asked_for(evaluated):
    held = turns("bring 2 desks", "item: desk; count: 2", "and 1 more", "item: desk; count: 3")
    _, report = evaluated([turns("a", "b"), turns("c", "d")], [held])
    (sample,) = report.read_samples()
    first, answer, second, expected = (each["content"] for each in held["messages"])
    before = prompt_of({"prompt": first}) + f"{answer}<|end|>\n"
    assert sample["prompt"] == before + prompt_of({"prompt": second}).removeprefix("<|bos|>")
    assert sample["expected"] == expected


def test_of_a_conversation_that_ends_unlearned_the_last_learned_answer_is_asked_for(evaluated):
    held = turns("a lamp", "item: lamp", "bye", "bye")
    held["messages"][-1]["weight"] = 0
    _, report = evaluated([turns("a", "b"), turns("c", "d")], [held])
    (sample,) = report.read_samples()
    assert (sample["prompt"], sample["expected"]) == (prompt_of({"prompt": "a lamp"}), "item: lamp")


def test_where_answers_follow_upon_each_other_the_last_one_is_asked_for(evaluated):
    """Without a template nothing stands between them but the first one's end."""
    held = {"messages": [*turns("a lamp", "item: lamp")["messages"]]}
    held["messages"].append({"role": "assistant", "content": "count: 1"})
    _, report = evaluated(
        [turns("a", "b"), turns("c", "d")], [held], tokenization={"template": "plain"}
    )
    (sample,) = report.read_samples()
    assert sample["prompt"] == "a lamp\nitem: lamp<|end|>"
    assert sample["expected"] == "count: 1"


def test_the_plain_template_asks_with_a_line(evaluated):
    _, report = evaluated(tokenization={"template": "plain"})
    samples = report.read_samples()
    assert [sample["prompt"] for sample in samples] == [row["prompt"] + "\n" for row in HELD]
    assert [sample["expected"] for sample in samples] == [row["completion"] for row in HELD]


def test_a_prompt_that_was_cut_is_asked_as_it_was_cut(evaluated):
    long = {"prompt": "please " * 60 + "bring 3 desks", "completion": "item: desk; count: 3"}
    _, report = evaluated(
        held=[long], tokenization={"max_length": 64, "too_long": "truncate_left"}
    )  # fmt: skip
    (sample,) = report.read_samples()
    assert sample["prompt"].endswith("bring 3 desks<|end|>\n<|start|>assistant\n")
    assert 0 < sample["prompt"].count("please") < 60
    assert sample["expected"] == long["completion"]


@pytest.mark.parametrize("policy", ["drop", "split"])
def test_plain_texts_ask_nothing_but_are_measured(evaluated, policy):
    texts = [{"text": f"bring {n} desks"} for n in range(4)]
    held = [{"text": "please bring two red chairs " * 4}]
    events = []
    tokenization = {"max_length": 64 if policy == "drop" else 16, "too_long": policy}
    tokens, report = evaluated(texts, held, tokenization=tokenization, emit=events.append)
    assert report.generated_rows == 0
    assert report.read_samples() == []
    assert set(report.base) == set(report.tuned) == {"loss", "perplexity", "token_accuracy"}
    assert report.base["loss"] > 0
    assert report.rows == tokens.validation_split.rows
    assert (report.rows == 1) is (policy == "drop")
    assert events[-1]["done"] == events[-1]["total"] == 2 * report.rows
    assert "answers generated to 0 of them" in report.markdown.read_text()


def test_an_evaluation_file_of_plain_texts_beside_questions(evaluated):
    _, report = evaluated(measured=[{"text": "bring two desks"}])
    assert (report.rows, report.generated_rows) == (1, 0)


def test_an_evaluation_is_done_once(evaluated):
    _, first = evaluated()
    _, second = evaluated()
    assert (first.cached, second.cached) == (False, True)
    assert second == first.model_copy(update={"cached": True})


def test_only_the_metrics_that_were_asked_for_are_measured(evaluated):
    _, report = evaluated(metrics=["rougeL", "bleu"])
    generated = set(report.base) - {"loss", "perplexity", "token_accuracy"}
    assert generated == set(report.tuned) - {"loss", "perplexity", "token_accuracy"}
    assert generated == {"rougeL", "bleu"}
