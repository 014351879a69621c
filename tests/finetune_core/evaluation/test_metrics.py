"""The metrics against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from finetune_core.evaluation.metrics import compute
from finetune_core.types import EvaluationMetric

EXACT, BLEU = EvaluationMetric.EXACT_MATCH, EvaluationMetric.BLEU
ROUGE = [EvaluationMetric.ROUGE_1, EvaluationMetric.ROUGE_2, EvaluationMetric.ROUGE_L]


def test_exact_match_is_the_share_of_equal_answers_but_for_white_space_at_the_ends():
    predictions = ["a b", " a b\n", "A b", "a  b", ""]
    assert compute([EXACT], predictions, ["a b"] * 4 + [""]) == {"exact_match": 3 / 5}


@pytest.mark.parametrize(
    ("prediction", "reference", "rouge1", "rouge2", "rouge_l"),
    [
        ("the cat sat", "the cat sat", 1, 1, 1),
        ("the cat sat", "the cat ran", 2 / 3, 1 / 2, 2 / 3),
        ("the cat", "the cat sat on", 2 / 3, 1 / 2, 2 / 3),  # P is 1; R 1/2, 1/3, 1/2
        ("b a", "a b", 1, 0, 1 / 2),
        ("dog", "the cat", 0, 0, 0),
        ("", "the cat", 0, 0, 0),
    ],
)
def test_rouge_is_the_f_score_over_words(prediction, reference, rouge1, rouge2, rouge_l):
    values = compute(ROUGE, [prediction], [reference])
    assert values == pytest.approx({"rouge1": rouge1, "rouge2": rouge2, "rougeL": rouge_l})


def test_rouge_is_the_mean_over_the_answers():
    values = compute(ROUGE, ["the cat sat", "dog"], ["the cat ran", "the cat"])
    assert values == pytest.approx({"rouge1": 1 / 3, "rouge2": 1 / 4, "rougeL": 1 / 3})


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [
        (["the cat sat on the mat"], ["the cat sat on the mat"], 1),
        # Words 5/6, pairs 3/5, triples 2/4, fours 1/3; as long as the reference.
        (["the cat sat on the mat"], ["the cat sat on a mat"], (1 / 12) ** (1 / 4)),
        # All of it right, but 4 words instead of 8: the brevity penalty alone.
        (["the cat sat on"], ["the cat sat on the mat with me"], math.exp(1 - 8 / 4)),
        # Over the corpus: words 9/10, pairs 7/8, triples 5/6, fours 3/4; no mean of two scores.
        (
            ["a b c d e", "a b c d f"],
            ["a b c d e", "a b c d g"],
            (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** (1 / 4),
        ),
    ],
)
def test_bleu_is_that_of_the_corpus(predictions, references, expected):
    assert compute([BLEU], predictions, references) == {"bleu": pytest.approx(expected)}


def test_only_the_asked_metrics_are_given():
    values = compute([EvaluationMetric.ROUGE_L, EXACT], ["a"], ["a"])
    assert values == {"rougeL": 1.0, "exact_match": 1.0}
    assert compute([], ["a"], ["a"]) == {}
