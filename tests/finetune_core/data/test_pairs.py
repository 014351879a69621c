"""Rows for models that read a text and give an answer by itself."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from finetune_core.config import DatasetConfig, ModelConfig, TokenizationConfig
from finetune_core.data.encode import make_encoder
from finetune_core.data.formats import Conversation, assistant, plain_text, system, user
from finetune_core.data.report import read_report
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.exceptions import DatasetFormatError, EmptyDatasetError, TemplateError
from finetune_core.types import Task
from tests.families import WORDS, save_model, tokenizer_for, write_csv

ROWS = [("nice food", "positive"), ("bad food", "negative"), ("warm", "positive"),
        ("rude staff", "negative"), ("good service", "positive")]  # fmt: skip
HELD = [("good food", "positive"), ("cold food", "negative")]
ROW = Conversation([user("nice food"), assistant("positive")])


def ids(text):
    return [WORDS.index(word) for word in text.split(" ")]


def encoded(family, *conversations, **config):
    task = Task.SEQ2SEQ if family == "T5" else Task.CLASSIFICATION
    settings = TokenizationConfig(**config)
    encoder = make_encoder(tokenizer_for(family), settings, task, ["negative", "positive"])
    names = [f"row {number}" for number in range(1, len(conversations) + 1)]
    results = encoder.encode(conversations, names)
    return [
        ([[part.tolist() for part in tokens] for tokens in found], finding)
        for found, finding in results
    ]


def test_a_text_gets_the_tokenizers_own_tokens_and_the_answer_an_end():
    assert encoded("T5", ROW) == [([[ids("nice food </s>"), ids("positive </s>")]], None)]
    assert encoded("BERT", ROW) == [([[ids("[CLS] nice food [SEP]"), [1]]], None)]


def test_an_end_is_added_where_the_tokenizer_adds_none():
    encoder = make_encoder(tokenizer_for("Llama"), TokenizationConfig(), Task.SEQ2SEQ)
    (((tokens,), _),) = encoder.encode([ROW], ["row 1"])
    assert tokens.labels.tolist() == ids("positive </s>")


def test_all_turns_before_the_last_answer_are_read():
    turns = [system("we"), user("nice"), assistant("positive"), user("bad"), assistant("negative")]
    ((tokens, _),) = encoded("T5", Conversation([*turns, user("day")]))
    assert tokens == [[ids("we \n nice \n positive \n bad </s>"), ids("negative </s>")]]


def test_a_label_that_is_not_learned_is_left_out_and_named():
    other = Conversation([user("food"), assistant("mixed")])
    first, second = encoded("BERT", other, ROW)
    assert first[0] == []
    assert first[1][:2] == ("unknown_label", "drop")
    assert "'mixed'" in first[1].detail
    assert second[1] is None


@pytest.mark.parametrize(
    ("conversation", "problem"),
    [
        (Conversation([plain_text("food")]), "plain text"),
        (Conversation([user("food")]), "no turn is an answer"),
        (Conversation([assistant("positive")]), "nothing comes before"),
        (Conversation(ROW.messages, "[]"), "tools"),
        (Conversation(ROW.messages, None, [assistant("negative")]), "preference"),
    ],
)
@pytest.mark.parametrize("family", ["T5", "BERT"])
def test_a_row_without_one_answer_is_refused_by_its_number(family, conversation, problem):
    if conversation.tools:
        conversation = conversation._replace(tools='[{"name": "f"}]')
    with pytest.raises(TemplateError, match=f"row 2: .*{problem}"):
        encoded(family, ROW, conversation)
    _, (tokens, finding) = encoded(family, ROW, conversation, refused="drop")
    assert (tokens, finding[:2]) == ([], ("template", "drop"))


class TestTooLong:
    """Only what is read is cut, between the special tokens."""

    LONG = Conversation([user("nice " + "the " * 20 + "day"), assistant("positive")])

    @pytest.mark.parametrize(
        ("policy", "source"),
        [("truncate_right", "nice" + " the" * 13), ("truncate_left", "the " * 13 + "day")],
    )
    def test_the_text_is_cut(self, policy, source):
        ((tokens, finding), (short, nothing)) = encoded(
            "BERT", self.LONG, ROW, max_length=16, too_long=policy
        )
        assert tokens == [[ids(f"[CLS] {source} [SEP]"), [1]]]
        assert finding[:2] == ("too_long", "change")
        assert (len(short[0][0]), nothing) == (4, None)  # the next row is not cut as well

    def test_or_the_row_is_dropped(self):
        ((tokens, finding),) = encoded("BERT", self.LONG, max_length=16)
        assert (tokens, finding[:2]) == ([], ("too_long", "drop"))
        assert finding.detail == "24 tokens, of 16 that it may have"

    def test_an_answer_is_never_cut(self):
        long = Conversation([user("nice"), assistant("the " * 20)])
        ((tokens, finding),) = encoded("T5", long, max_length=16, too_long="truncate_right")
        assert (tokens, finding[:2]) == ([], ("too_long", "drop"))


@pytest.fixture
def request_for(tmp_path):
    def make(family, rows=ROWS, held=HELD, **config):
        if not (tmp_path / family).is_dir():
            save_model(family, tmp_path / family)
        dataset = DatasetConfig(
            path=str(write_csv(tmp_path / "train.csv", rows)),
            validation_path=str(write_csv(tmp_path / "held.csv", held)),
        )
        return TokenizeRequest.for_model(
            ModelConfig(name=str(tmp_path / family)),
            TokenizationConfig(**config),
            clean=sanitize(SanitizeRequest(dataset=dataset, cache=tmp_path / "clean"), ignore),
            sanitize=dataset.sanitize,
            cache=tmp_path / "tokens",
        )

    return make


def ignore(event):
    """An observer that does nothing."""


class TestFiles:
    """From clean rows to the files that training maps."""

    def test_labels_are_sorted_and_the_same_in_all_splits(self, request_for):
        tokens = tokenize(request_for("BERT", held=HELD[::-1]), ignore)
        assert (tokens.task, tokens.labels) == (Task.CLASSIFICATION, ["negative", "positive"])
        assert Dataset.from_file(str(tokens.train))["labels"][:] == [[1], [0], [1], [0], [1]]
        held = list(Dataset.from_file(str(tokens.validation)))
        assert [row["labels"] for row in held] == [[0], [1]]
        assert held[0]["input_ids"] == ids("[CLS] cold food [SEP]")
        assert held[0]["length"] == 4
        assert tokens.train_split.trained_tokens == 5

    def test_a_written_answer_has_a_length_of_its_own(self, request_for):
        tokens = tokenize(request_for("T5"), ignore)
        row = Dataset.from_file(str(tokens.train))[0]
        assert (row["input_ids"], row["labels"]) == (ids("nice food </s>"), ids("positive </s>"))
        assert (tokens.task, tokens.labels, tokens.template) == (Task.SEQ2SEQ, [], "none")

    def test_a_held_out_row_of_another_label_stands_in_the_ledger(self, request_for):
        tokens = tokenize(request_for("BERT", held=[*HELD, ("a day", "mixed")]), ignore)
        assert (tokens.validation_split.rows, tokens.dropped_by_rule) == (2, {"unknown_label": 1})
        (row,) = [
            row for row in pq.read_table(tokens.ledger).to_pylist() if row["outcome"] == "dropped"
        ]
        assert (row["file"], row["row"]) == ("validation", 3)
        assert "'mixed' is none that is learned ('negative', 'positive')" in row["detail"]

    def test_the_report_shows_texts_and_labels(self, request_for):
        tokens = tokenize(request_for("BERT"), ignore)
        first = read_report(tokens.report).samples[0]
        assert [(piece.text, piece.trained) for piece in first] == [
            ("[CLS] nice food [SEP] → ", False),
            ("positive", True),
        ]

    def test_one_label_cannot_be_learned(self, request_for):
        rows = [row for row in ROWS if row[1] == "positive"]
        with pytest.raises(DatasetFormatError, match="all training rows have the label 'positive'"):
            tokenize(request_for("BERT", rows), ignore)

    def test_answers_that_are_all_unlike_are_no_labels(self, request_for):
        rows = [(f"food {word}", word) for word in WORDS[9:20]]
        with pytest.raises(DatasetFormatError, match="none of the 11 answers occurs twice"):
            tokenize(request_for("BERT", rows), ignore)

    def test_no_held_out_row_has_a_known_label(self, request_for):
        with pytest.raises(EmptyDatasetError, match="the label 'mixed' is none"):
            tokenize(request_for("BERT", held=[("a day", "mixed")]), ignore)

    def test_the_folder_depends_on_the_task(self, request_for):
        request = request_for("BERT")
        causal = request.model_copy(update={"task": Task.CAUSAL})
        assert request.folder != causal.folder
