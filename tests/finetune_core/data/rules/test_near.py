"""Near: rows alike by more than a threshold, found without comparing each with each."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.data.formats import Conversation, assistant, plain_text, user
from finetune_core.data.rules import near
from finetune_core.data.rules.near import NearRows, Sketches, bands, find_near, sketch

WORDS = [f"word{n}" for n in range(200)]


def text(*changed, words=WORDS):
    return " ".join("another" if n in changed else word for n, word in enumerate(words))


def rows_of(texts):
    return [Conversation([plain_text(each)]) for each in texts]


def found_among(rows, threshold=0.9):
    """Which rows are near to which, all of one file."""
    every = np.ones(len(rows), dtype=bool)
    near_rows = find_near(sketch(rows, threshold), threshold, every, every)
    return {row: each.place for row, each in near_rows.items()}


def judged(blocks, **config):
    """What the rules say of blocks of texts, each of a file and numbered from 1 there."""
    rows, counts = NearRows(SanitizeConfig(**config)), {}
    for file, texts in blocks:
        first = counts.get(file, 0) + 1
        counts[file] = first + len(texts) - 1
        sketches = sketch(rows_of([*texts, "dropped"]), 0.9).take(range(len(texts)))
        rows.add(file, range(first, first + len(texts)), sketches)
    return {
        place: {rule: (verdict.action, verdict.detail) for rule, verdict in verdicts.items()}
        for place, verdicts in rows.verdicts("training").items()
    }


@pytest.mark.parametrize("action", ["drop", "flag"])
def test_one_word_of_two_hundred_makes_no_other_row(action):
    # 5 of 196 runs are others: 191 / 201 = 95 %
    found = judged([("training", ["other", text(), "else", text(100)])], near_duplicate=action)
    ((place, verdicts),) = found.items()
    assert place == ("training", 4)
    assert list(verdicts) == ["near_duplicate"]
    said, detail = verdicts["near_duplicate"]
    share, _, rest = detail.partition("%")
    assert (said, rest) == (action, " the same as row 2")
    assert 90 <= int(share) <= 99


def test_case_and_white_space_do_not_count():
    rows = rows_of([text(), text().upper().replace(" ", "\n")])
    assert found_among(rows, 1.0) == {1: 0}


def test_prompt_and_answer_count_alike(turns):
    assert found_among([turns(text(), "yes"), turns(text(), "no")]) == {1: 0}
    assert found_among([turns("q", text()), turns("p", text())]) == {1: 0}
    assert found_among([turns("q", text()), turns(text()[:700], text()[700:])]) == {1: 0}


def test_what_a_turn_calls_counts(turns):
    calls = ['[{"a": "%s"}]' % " ".join(f"{word}{n}" for word in WORDS) for n in range(2)]  # noqa: UP031
    rows = [Conversation([user("q"), assistant("") | {"tool_calls": each}]) for each in calls]
    assert found_among([*rows, rows[1]]) == {2: 1}


def test_preferences_whose_rejected_answers_differ_are_not_near(turns):
    others = [" ".join(f"{word}{n}" for word in WORDS) for n in range(2)]
    rows = [turns(text())._replace(rejected=[assistant(each)]) for each in others]
    assert found_among([*rows, rows[1]]) == {2: 1}


def test_the_threshold_decides():
    rows = rows_of([text(), text(20, 60, 100, 140, 180)])  # 25 of 196 runs: 171 / 221 = 77 %
    assert found_among(rows, 0.6) == {1: 0}
    assert found_among(rows, 0.95) == {}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("if a < b:", "if a > b:"),
        ("\u4eca\u5929\u5929\u6c14\u5f88\u597d", "\u660e\u5929\u5929\u6c14\u4e0d\u597d"),
        ("a", "b"),
        ("", "a"),
    ],
)
def test_short_rows_that_differ_are_let_alone(one, two):
    assert found_among(rows_of([one, two])) == {}


@pytest.mark.parametrize(
    "letters",
    [
        "\u4eca\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\u516c\u56ed",
        "\u3042\u3044\u3046\u3048\u304a\u30ab\u30ad\u30af",
        "\u0e01\u0e02\u0e04\u0e07\u0e08\u0e0a",
    ],
)
def test_scripts_without_spaces_are_compared_by_letters(letters):
    random_ = random.Random(5)
    long, other = ("".join(random_.choices(letters, k=300)) for _ in range(2))
    sign = letters[long[150] == letters[0]]
    assert found_among(rows_of([long, other, long[:150] + sign + long[151:]])) == {2: 0}


def test_a_latin_word_does_not_swallow_the_letters_behind_it():
    random_ = random.Random(5)
    letters = random_.choices("\u4eca\u5929\u6c14\u5f88\u597d", k=300)
    one, two = ("Python" + "".join([*letters, sign, *letters[:9]]) for sign in "\u53bb\u516c")
    assert found_among(rows_of([one, two])) == {1: 0}  # one letter of 310


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_one_text_is_found_among_many_at_every_threshold(threshold):
    texts = [" ".join(f"{word}{n}" for word in WORDS) for n in range(50)]
    assert found_among(rows_of([*texts, texts[30]]), threshold) == {50: 30}


def runs(words):
    return {tuple(words[n : n + 5]) for n in range(max(1, len(words) - 4))}


def jaccard(one, two):
    return len(runs(one) & runs(two)) / len(runs(one) | runs(two))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_pairs_well_above_the_threshold_are_found_and_those_well_below_are_not(threshold):
    random_ = random.Random(7)
    firsts = [[f"{n}w{k}" for k in range(random_.randrange(60, 300))] for n in range(150)]
    seconds = []
    for first in firsts:
        share = random_.random() ** 2 / 4
        seconds.append([f"x{word}" if random_.random() < share else word for word in first])
    rows = rows_of(" ".join(each) for each in firsts + seconds)
    every = np.ones(len(rows), dtype=bool)
    found = find_near(sketch(rows, threshold), threshold, every, every)
    above = below = 0
    for place, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        similarity = jaccard(first, second)
        result = found.pop(150 + place, None)
        if similarity > threshold + 0.12:
            above += 1
            assert result is not None
        if similarity < threshold - 0.12:
            below += 1
            assert result is None
        if result:
            assert result.place == place
            assert abs(result.similarity - similarity) < 0.15
    assert found == {}
    assert below > 15
    assert above > 15 or threshold == 0.9


def test_of_near_pairs_nearly_all_just_above_the_threshold_are_found():
    # 2 of 100 words, apart: 86 / 106 = 81 % of 96 runs
    firsts = [[f"{n}w{k}" for k in range(100)] for n in range(400)]
    seconds = [[f"x{w}" if k in (30, 60) else w for k, w in enumerate(each)] for each in firsts]
    assert jaccard(firsts[0], seconds[0]) == 86 / 106
    found = found_among(rows_of(" ".join(each) for each in firsts + seconds), 0.7)
    assert len(found) >= 390
    assert all(row == place + 400 for row, place in found.items())


def nearest_by_brute_force(sketches, threshold, asked, remembered):
    """As `find_near`, each with each: slow, and hard to do wrong."""
    found, known = {}, []
    for row in range(len(asked)):
        best = None
        for other in known if asked[row] else ():
            if not (sketches.bands[other] == sketches.bands[row]).any():
                continue
            alike = (sketches.hashes[other] == sketches.hashes[row]).sum() / 128
            similarity = (alike - 1 / 256) / (1 - 1 / 256)
            if similarity >= threshold and (best is None or similarity > best[1]):
                best = (other, similarity)
        if best:
            found[row] = best
        elif remembered[row]:
            known.append(row)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_what_is_found_is_what_comparing_each_with_each_finds(seed):
    random_ = random.Random(seed)
    threshold = random_.choice([0.5, 0.7, 0.9])
    pool = [[f"{n}w{k}" for k in range(80)] for n in range(25)]
    texts = []
    for _ in range(250):
        words = list(random_.choice(pool))
        for _ in range(random_.randrange(6)):
            words[random_.randrange(80)] = random_.choice("xyz")
        texts.append(" ".join(words))
    sketches = sketch(rows_of(texts), threshold)
    asked = np.array([random_.random() < 0.8 for _ in texts])
    remembered = np.array([random_.random() < 0.8 for _ in texts])
    expected = nearest_by_brute_force(sketches, threshold, asked, remembered)
    assert find_near(sketches, threshold, asked, remembered) == expected
    assert 10 < len(expected) < 200


def test_a_row_is_near_only_to_an_earlier_one_that_is_not_near_itself():
    # Each is 2 / 3 the same as the one before: 160 of 240 words on. Two steps make 3 / 7.
    words = [f"word{n}" for n in range(1000)]
    steps = rows_of(" ".join(words[n * 40 : n * 40 + 204]) for n in range(3))
    assert found_among(steps, 0.55) == {1: 0}
    assert found_among(steps[1:], 0.55) == {1: 0}


@pytest.mark.parametrize(
    ("others", "place"),
    [
        ([text(0, 40, 80), text(0)], 1),
        ([text(0), text(0, 40, 80)], 0),
        ([text(0, 40, 80), text(0), text(0)], 1),
        ([text(), text()], 0),
    ],
)
def test_of_several_the_most_similar_is_named_and_the_first_of_equals(others, place):
    asked = np.array([False] * len(others) + [True])
    found = find_near(sketch(rows_of([*others, text()]), 0.5), 0.5, asked, ~asked)
    assert {row: each.place for row, each in found.items()} == {len(others): place}


def test_rows_that_share_a_beginning_by_the_hundred_are_still_told_apart(monkeypatch):
    monkeypatch.setattr(near, "MOST_COMPARED", 20)
    shared = " ".join(WORDS)
    texts = [shared + " " + " ".join(f"{n}w{k}" for k in range(80)) for n in range(300)]
    copies = [each.replace("word100 ", "another ") for each in texts[:40]]
    assert found_among(rows_of(texts + copies), 0.9) == {300 + n: n for n in range(40)}


@pytest.mark.timeout(60)
def test_thousands_that_share_a_beginning_do_not_take_forever():
    shared = " ".join(WORDS[:100])
    rows = rows_of(shared + " " + " ".join(f"{n}w{k}" for k in range(40)) for n in range(4000))
    sketches = sketch(rows, 0.9)
    every = np.ones(len(rows), dtype=bool)
    begun = time.process_time()
    found = find_near(sketches, 0.9, every, every)
    assert time.process_time() - begun < 30
    assert len(found) < 40


def test_a_sketch_does_not_depend_on_the_rows_beside():
    rows = rows_of([text(), "a", "", text(3), "\u4eca\u5929"])
    together = sketch(rows, 0.8)
    apart = [sketch([row], 0.8) for row in rows]
    for name in Sketches._fields:
        joined = np.concatenate([getattr(each, name) for each in apart])
        assert np.array_equal(getattr(together, name), joined)
    assert np.array_equal(together.take([3, 0]).hashes, together.hashes[[3, 0]])
    assert together.take([]).bands.shape == (0, bands(0.8))


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.75, 0.9, 0.99, 1.0])
def test_there_are_as_few_bands_as_find_99_of_100_pairs(threshold):
    def chance(count):
        return 1 - (1 - threshold ** (128 // count)) ** count

    count = bands(threshold)
    assert chance(count) >= 0.99 or count == 128
    assert count == 1 or chance(count // 2) < 0.99


HELD = [("evaluation", [text(100), "short"]), ("validation", ["b", text(50)])]


def test_a_training_row_near_to_a_held_out_one_is_found_with_the_file():
    found = judged([*HELD, ("training", ["a", text(50), text(100)])], near_leak="drop")
    assert found == {
        ("training", 2): {"near_leak": ("drop", "100% the same as row 2 of the validation file")},
        ("training", 3): {"near_leak": ("drop", "100% the same as row 1 of the evaluation file")},
    }


def test_held_out_rows_are_compared_with_no_other_file():
    assert judged([*HELD, ("training", ["a"])], near_leak="drop", near_duplicate="drop") == {}
    same = [("evaluation", [text()]), ("validation", [text()])]
    assert judged(same, near_leak="drop", near_duplicate="drop") == {}


def test_near_duplicates_are_of_one_file():
    blocks = [
        ("validation", [text(), "b", text()]),
        ("training", [text(), "c"]),
        ("training", [text(3)]),
    ]
    found = judged(blocks, near_duplicate="flag")
    assert set(found) == {("validation", 3), ("training", 3)}
    assert found["validation", 3]["near_duplicate"] == ("flag", "100% the same as row 1")
    assert found["training", 3]["near_duplicate"][1].endswith("% the same as row 1")


def test_a_row_that_is_dropped_is_no_leak_but_a_flagged_one_may_be_one_too():
    blocks = [("validation", [text()]), ("training", [text(), text()])]
    leak = ("drop", "100% the same as row 1 of the validation file")
    dropped = judged(blocks, near_duplicate="drop", near_leak="drop")
    assert dropped == {
        ("training", 1): {"near_leak": leak},
        ("training", 2): {"near_duplicate": ("drop", "100% the same as row 1")},
    }
    flagged = judged(blocks, near_duplicate="flag", near_leak="drop")
    assert flagged["training", 2] == {
        "near_duplicate": ("flag", "100% the same as row 1"),
        "near_leak": leak,
    }


def test_blocks_in_which_no_row_was_left_are_no_matter():
    blocks = [("training", ["a"]), ("training", []), ("training", [text()])]
    assert judged([*blocks, ("training", [text()])], near_duplicate="drop") == {
        ("training", 3): {"near_duplicate": ("drop", "100% the same as row 2")}
    }
    assert NearRows(SanitizeConfig(near_leak="drop")).verdicts("training") == {}
