"""Tokenize from clean rows to the files that training maps."""

from __future__ import annotations

import json
import shutil

import pytest
from datasets import Dataset

from finetune_core.config import DatasetConfig, ModelConfig, TokenizationConfig
from finetune_core.data.sanitize import sanitize
from finetune_core.data.tokenize import TokenizeRequest, load_tokenizer, tokenize
from finetune_core.exceptions import (
    EmptyDatasetError,
    ModelLoadError,
    ModelNotFoundError,
    TemplateError,
)

ROWS = [{"prompt": f"bring {n} desks", "completion": f"item: desk; count: {n}"} for n in range(20)]
LONG = {"prompt": "please " * 100, "completion": "item: none"}
WRITTEN = [*ROWS[:5], LONG, *ROWS[5:], LONG | {"completion": "item: nothing"}]  # rows 6 and 22
HELD = [{"prompt": "bring 99 chairs", "completion": "item: chair; count: 99"}]


@pytest.fixture
def request_for(tmp_path, tiny_base):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def make(rows=WRITTEN, held=HELD, model=tiny_base, **tokenization):
        dataset = DatasetConfig(path=write("t.jsonl", rows), validation_path=write("v.jsonl", held))
        return TokenizeRequest(
            clean=sanitize(dataset, tmp_path / "data"),
            model=ModelConfig(name=str(model)),
            tokenization=TokenizationConfig(**{"max_length": 64} | tokenization),
            cache=tmp_path / "tokens",
        )

    return make


def ignore(event):
    """An observer that does nothing."""


def whole(row):
    """The row as the shipped chat template writes it."""
    return (
        f"<|bos|><|start|>user\n{row['prompt']}<|end|>\n"
        f"<|start|>assistant\n{row['completion']}<|end|>\n"
    )


def lengths(tokenizer, texts):
    return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def test_rows_become_tokens_whose_answers_are_trained(request_for, tokenizer):
    tokens = tokenize(request_for(), ignore)
    rows = list(Dataset.from_file(str(tokens.train)))
    assert [row["row"] for row in rows] == [*range(1, 6), *range(7, 22)]
    for row, source in zip(rows, ROWS, strict=True):
        assert tokenizer.decode(row["input_ids"]) == whole(source)
        trained = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(trained) == source["completion"] + "<|end|>"
        assert row["length"] == len(row["input_ids"]) == len(row["labels"])


def test_the_counts_are_those_of_the_rows(request_for, tokenizer):
    tokens = tokenize(request_for(), ignore)
    texts = lengths(tokenizer, map(whole, ROWS))
    answers = lengths(tokenizer, [row["completion"] + "<|end|>" for row in ROWS])
    train = tokens.train_split
    assert (train.rows, train.tokens, train.longest) == (20, sum(texts), max(texts))
    assert train.trained_tokens == sum(answers)
    assert tokens.validation_split.rows == 1
    assert tokens.template == "chat"


def test_rows_that_are_too_long_are_left_out_and_listed(request_for):
    tokens = tokenize(request_for(), ignore)
    assert tokens.train_split.too_long == [6, 22]
    assert tokens.validation_split.too_long == []


def test_a_row_as_long_as_the_limit_is_kept(request_for, tokenizer):
    rows = [
        *ROWS[:10],
        {"prompt": "please bring 7 red desks", "completion": "item: desk; count: 7"},
    ]
    (longest,) = lengths(tokenizer, [whole(rows[-1])])
    for limit, too_long in ((longest, []), (longest - 1, [11])):
        tokens = tokenize(request_for(rows, ROWS[:1], max_length=limit), ignore)
        assert tokens.train_split.too_long == too_long


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_of_which_no_row_fits_is_refused(request_for, split):
    rows = {"rows": [LONG]} if split == "train" else {"held": [LONG]}
    with pytest.raises(EmptyDatasetError, match=f"every {split} row is longer than 64 tokens"):
        tokenize(request_for(**rows), ignore)


def test_the_same_rows_are_tokenized_once(request_for):
    first = tokenize(request_for(), ignore)
    second = tokenize(request_for(), ignore)
    assert (first.cached, second.cached) == (False, True)
    assert second == first.model_copy(update={"cached": True})


def test_the_progress_ends_at_the_number_of_rows(request_for):
    events = []
    tokenize(request_for(), events.append)
    assert [(event["done"], event["total"]) for event in events] == [(22, 22), (1, 1)]


@pytest.fixture
def other_base(tmp_path, tiny_base):
    """The shipped tokenizer in another folder, to be changed."""
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_base / name, folder)
    return folder


def test_the_same_tokenizer_in_another_folder_hits_the_cache(request_for, other_base):
    first = tokenize(request_for(), ignore)
    second = tokenize(request_for(model=other_base), ignore)
    assert second.cached
    assert second.tokenizer_digest == first.tokenizer_digest


def test_another_tokenizer_or_config_gets_a_folder_of_its_own(request_for, other_base):
    template = other_base / "chat_template.jinja"
    first = request_for().folder
    template.write_text(template.read_text().replace("<|start|>", "<|start|> "))
    others = [
        request_for(model=other_base).folder,
        request_for(max_length=65).folder,
        request_for(template="plain").folder,
        request_for(ROWS).folder,
    ]
    assert len({first, *others}) == 5


def test_a_template_that_is_refused_names_the_row(request_for, other_base, tmp_path):
    (other_base / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(TemplateError, match="row 1: "):
        tokenize(request_for(model=other_base), ignore)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_broken_tokenizer_is_named(other_base):
    (other_base / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=str(other_base)):
        load_tokenizer(other_base)


def test_a_folder_that_holds_no_model_is_refused(request_for, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        tokenize(request_for(model=tmp_path), ignore)
