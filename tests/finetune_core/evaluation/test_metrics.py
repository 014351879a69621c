"""The metrics against values worked out by hand, and against the libraries that define them."""

from __future__ import annotations

import math
import random
from time import perf_counter

import evaluate
import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import accuracy_score, f1_score

from finetune_core.evaluation.intervals import values
from finetune_core.evaluation.metrics import compute as estimates
from finetune_core.evaluation.metrics import find_module
from finetune_core.exceptions import EvaluationError, InvalidConfigError
from finetune_core.types import EvaluationMetric

EXACT, BLEU, CHRF = EvaluationMetric.EXACT_MATCH, EvaluationMetric.BLEU, EvaluationMetric.CHRF
ACCURACY, F1 = EvaluationMetric.ACCURACY, EvaluationMetric.F1
ROUGE = [EvaluationMetric.ROUGE_1, EvaluationMetric.ROUGE_2, EvaluationMetric.ROUGE_L]


def compute(wanted, predictions, references):
    return values(estimates(wanted, predictions, references))


def texts(count, seed):
    """Answers of up to twelve words, and expected ones that share most of them."""
    words = ["red", "blue", "green", "chair", "desk", "lamp", "two", "seven"]
    draw = random.Random(seed)
    references = [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(count)]
    return [text.replace("red", draw.choice(words)) for text in references], references


def labels(count, seed):
    draw = random.Random(seed)
    references = draw.choices(["yes", "no", "maybe"], [6, 3, 1], k=count)
    return [draw.choice([text, text, "no", "a ramble"]) for text in references], references


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


def test_accuracy_is_sklearns_but_for_case_and_white_space_at_the_ends():
    predictions, references = labels(200, seed=0)
    expected = accuracy_score(references, predictions)
    assert compute([ACCURACY], predictions, references)["accuracy"] == pytest.approx(expected)
    assert compute([ACCURACY], [" Yes\n", "yes."], ["yes", "yes"]) == {"accuracy": 0.5}


def test_f1_is_sklearns_macro_over_the_expected_labels():
    predictions, references = labels(200, seed=1)
    expected = f1_score(
        references, predictions, labels=sorted(set(references)), average="macro", zero_division=0
    )
    assert compute([F1], predictions, references)["f1"] == pytest.approx(expected)


def test_f1_by_hand():
    # yes: 1 hit, 2 expected, 1 named; no: 1 hit, 1 expected, 2 named.
    values = compute([F1], ["yes", "no", "No "], ["yes", "yes", "no"])
    assert values["f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_bleu_and_chrf_are_sacrebleus(seed):
    predictions, references = texts(50, seed)
    assert compute([BLEU, CHRF], predictions, references) == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score / 100),
        "chrf": pytest.approx(sacrebleu.corpus_chrf(predictions, [references]).score / 100),
    }


def test_answers_that_say_nothing_are_worth_nothing():
    wanted = [ACCURACY, F1, EXACT, *ROUGE, BLEU, CHRF]
    found = estimates(wanted, ["", ""], ["a lamp", "a desk"])
    assert [metric.value for metric in wanted] == list(found)
    assert set(found.values()) == {(0.0, (0.0, 0.0))}


@pytest.mark.parametrize("metric", [F1, BLEU, CHRF, ROUGE[2], ACCURACY])
def test_an_interval_is_of_the_metric_computed_anew_on_resampled_rows(metric):
    """With resamples of the test's own, so the ends agree but for the luck of the draws."""
    predictions, references = (labels if metric in (F1, ACCURACY) else texts)(120, seed=5)
    (found,) = estimates([metric], predictions, references).values()
    draw = np.random.default_rng(99)
    module = evaluate.load(str(find_module(metric)))
    drawn = []
    for _ in range(400):
        rows = draw.integers(120, size=120)
        given = [[texts[row] for row in rows] for texts in (predictions, references)]
        drawn.append(module._compute(*given)[metric.value])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.interval[0] < found.value < found.interval[1]
    assert found.interval == pytest.approx((low, high), abs=0.2 * (high - low))


@pytest.mark.parametrize("metric", [ACCURACY, F1, EXACT, ROUGE[0], BLEU, CHRF])
def test_the_interval_of_200_rows_is_there_in_less_than_two_seconds(metric):
    predictions, references = texts(200, seed=6)
    estimates([metric], predictions[:2], references[:2])  # imports
    start = perf_counter()
    estimates([metric], predictions, references)
    assert perf_counter() - start < 2


def test_metrics_come_in_the_order_in_which_they_were_asked_for():
    wanted = [ROUGE[2], BLEU, ROUGE[0], EvaluationMetric.LOSS, EXACT]
    known = {"loss": (0.5, (0.4, 0.6)), "perplexity": (1.6, (1.5, 1.8))}
    found = estimates(wanted, ["a"], ["a"], known)
    assert list(found) == ["rougeL", "bleu", "rouge1", "loss", "exact_match"]
    assert found["loss"] == known["loss"]
    assert "loss" not in estimates(wanted, ["a"], ["a"])


LENGTHS = """
import datasets
import evaluate


class Lengths(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        pairs = list(zip(predictions, references))
        same = sum(len(one) == len(other) for one, other in pairs)
        return {"same_length": same / len(pairs), "each": [len(one) for one, _ in pairs]}
"""


@pytest.fixture
def lengths(tmp_path):
    """A module of somebody's, as the hub has them: it knows nothing of intervals."""
    file = tmp_path / "lengths.py"
    file.write_text(LENGTHS)
    return str(file)


def test_a_module_of_somebodys_is_computed_with_an_interval_of_its_own(lengths):
    found = estimates([lengths, EXACT], ["ab", "a", "b", "d"], ["cd", "xy", "b", "c"])
    assert list(found) == ["same_length", "exact_match"]  # a list is no value
    low, high = found["same_length"].interval
    assert found["same_length"].value == 3 / 4
    assert 0 <= low < 3 / 4 < high <= 1


def test_a_module_that_is_not_there_is_wrong_input(tmp_path):
    with pytest.raises(InvalidConfigError, match=r"there is no file .*none\.py"):
        estimates([str(tmp_path / "none.py")], ["a"], ["a"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("return {", "raise RuntimeError('no') or {"), "RuntimeError: no"),
        (('"same_length": same / len(pairs), ', ""), "no number"),
        (("import datasets", "import no_such_module"), "no_such_module"),
        (("same_length", "exact_match"), "two metrics are called exact_match"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_by_what_is_wrong(tmp_path, change, problem):
    file = tmp_path / "changed.py"
    file.write_text(LENGTHS.replace(*change))
    with pytest.raises(EvaluationError, match=problem):
        estimates([EXACT, str(file)], ["a"], ["a"])
