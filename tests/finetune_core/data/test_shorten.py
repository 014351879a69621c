"""What is too long fits afterwards, with its answers whole, and the finding says what was done."""

from __future__ import annotations

import random
import re

import pytest

from finetune_core.config import TokenizationConfig
from finetune_core.data.encode import Encoder
from finetune_core.data.formats import Conversation, assistant, plain_text, system, user
from finetune_core.data.masks import IGNORED
from finetune_core.exceptions import TemplateError
from tests.finetune_core.data.conftest import KINDS, chat, tiny, trained
from tests.finetune_core.data.turns import turn

LIMIT = 64
LEFT, RIGHT, SPLIT, DROP = "truncate_left", "truncate_right", "split", "drop"
TURN = re.compile(r"<\|start\|>(\w+)\n(.*?)<\|end\|>\n", re.DOTALL)
CHATML = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def fitted(tokenizer, messages, policy, limit=LIMIT, **config):
    """The rows that a conversation becomes, and the finding."""
    config = TokenizationConfig(max_length=limit, too_long=policy, **config)
    ((rows, finding),) = Encoder(tokenizer, config).encode([Conversation(messages)], [1])
    return [(row.ids.tolist(), row.labels.tolist()) for row in rows], finding


def turns(tokenizer, ids):
    """The turns of a row that the shipped template has written."""
    return TURN.findall(tokenizer.decode(ids))


def pairs(messages):
    return [(message["role"], message["content"]) for message in messages]


WORDS = ["please", "bring", "two", "red", "desks", "7", "Größe", "数据", "\n", "item:"]


def long_ones(count=60):
    """Conversations of about twice the limit, more or less."""
    chance = random.Random(7)

    def content(most):
        return " ".join(chance.choice(WORDS) for _ in range(chance.randint(1, most)))

    for _ in range(count):
        messages = [system(content(4))] if chance.random() < 0.5 else []
        for _ in range(chance.randint(1, 4)):
            messages += [user(content(20)), turn("assistant", content(4), chance.random() < 0.8)]
        messages[-1]["trained"] = True
        yield messages


@pytest.mark.parametrize("policy", [LEFT, RIGHT, SPLIT, DROP])
def test_every_row_fits_afterwards_with_whole_answers_and_a_reason(tokenizer, policy):
    outcomes = {"untouched": 0, "change": 0, "drop": 0}
    for messages in long_ones():
        rows, finding = fitted(tokenizer, messages, policy)
        outcomes[finding.action if finding else "untouched"] += 1
        if finding:
            assert finding.rule == "too_long"
            assert re.match(r"[\d,]+ tokens, of 64 that it may have", finding.detail)
            assert bool(rows) is (finding.action == "change")
        learned = []
        for ids, labels in rows:
            assert len(ids) <= LIMIT
            assert trained(ids, labels)
            learned += [tokenizer.decode(run) for _, run in trained(ids, labels)]
            heads = [message["content"] for message in messages if message["role"] == "system"]
            assert [text for role, text in turns(tokenizer, ids) if role == "system"] == heads
        answers = [message["content"] + "<|end|>" for message in messages if message["trained"]]
        if policy != SPLIT:
            assert learned == (answers if rows else [])
        else:
            assert is_within(learned, answers)
    met = {name for name, count in outcomes.items() if count}
    assert met == ({"untouched", "drop"} if policy == DROP else {"untouched", "change", "drop"})


def is_within(some, all_):
    """Whether these stand among those in this order."""
    rest = iter(all_)
    return all(each in rest for each in some)


@pytest.mark.parametrize("policy", [LEFT, RIGHT, SPLIT])
def test_what_fits_is_the_same_by_every_policy(tokenizer, policy):
    messages = [system("Be brief."), *chat("two desks", "item: desk")]
    (row,), finding = fitted(tokenizer, messages, policy)
    assert finding is None
    length = len(row[0])
    for limit, found in ((length, False), (length - 1, True)):
        _, finding = fitted(tokenizer, messages, policy, limit)
        assert (finding is not None) is found


@pytest.mark.parametrize("policy", [LEFT, RIGHT])
def test_a_prompt_is_cut_at_one_end_alone(tokenizer, policy):
    words = " ".join(f"{number} desks" for number in range(60))
    ((ids, _),), finding = fitted(tokenizer, chat(words, "item: desk"), policy)
    (_, left), answer = turns(tokenizer, ids)
    assert 0 < len(left) < len(words)
    assert words.endswith(left) if policy == LEFT else words.startswith(left)
    assert answer == ("assistant", "item: desk")
    assert finding.action == "change"
    assert finding.detail.endswith(": the prompt is cut")


@pytest.mark.parametrize("policy", [LEFT, RIGHT])
def test_a_prompt_loses_little_more_than_it_must(tokenizer, policy):
    words = " ".join(f"{number} desks" for number in range(200))
    ((ids, _),), _ = fitted(tokenizer, chat(words, "item: desk"), policy)
    assert LIMIT - 16 <= len(ids) <= LIMIT


@pytest.mark.parametrize("policy", [LEFT, RIGHT])
@pytest.mark.parametrize("dense", ["数", "😀", "7"])
def test_a_prompt_whose_characters_are_many_tokens_is_cut_too(tokenizer, policy, dense):
    # The answer's tokens are long, the prompt's short: counted together they mislead.
    messages = chat("desk " + dense * 40 + " desk", "furniture, please: " * 6)
    limit = len(only_row(tokenizer, chat("x", messages[1]["content"]))[0]) + 30
    ((ids, _),), finding = fitted(tokenizer, messages, policy, limit)
    assert finding.action == "change"
    assert 0 < turns(tokenizer, ids)[0][1].count(dense) < 40


def test_a_prompt_whose_tokens_are_of_unlike_length_is_cut_too(tokenizer):
    tail = "😀" * 200
    limit = len(only_row(tokenizer, chat(tail, "item: desk"))[0]) + 16
    messages = chat("furniture, please: " * 200 + tail, "item: desk")
    ((ids, _),), _ = fitted(tokenizer, messages, LEFT, limit)
    assert limit - 16 <= len(ids) <= limit
    assert turns(tokenizer, ids)[0][1].endswith(tail)


def only_row(tokenizer, messages):
    ((row,), _) = fitted(tokenizer, messages, DROP, 10_000)
    return row


@pytest.mark.parametrize("policy", [LEFT, RIGHT])
@pytest.mark.parametrize("long_place", [0, 2])
def test_the_longest_question_is_the_one_that_is_cut(tokenizer, policy, long_place):
    messages = [system("Be brief."), *chat("two desks", "item: desk", "one chair", "item: chair")]
    messages[1 + long_place] = user("please " * 80)
    ((ids, _),), _ = fitted(tokenizer, messages, policy)
    found = turns(tokenizer, ids)
    assert len(found[1 + long_place][1]) < 80 * len("please ")
    del found[1 + long_place], messages[1 + long_place]
    assert found == pairs(messages)


@pytest.mark.parametrize("policy", [LEFT, RIGHT])
def test_a_tools_answer_may_be_cut(policy):
    tokenizer = tiny("byte level", CHATML)
    messages = [*chat("q", "look"), turn("tool", "desk " * 100), assistant("item: desk")]
    ((ids, labels),), _ = fitted(tokenizer, messages, policy)
    assert len(ids) <= LIMIT
    runs = [tokenizer.decode(run) for _, run in trained(ids, labels)]
    assert runs == ["look</s>", "item: desk</s>"]
    assert "<user>q</s>" in tokenizer.decode(ids)


@pytest.mark.parametrize("policy", [LEFT, RIGHT, SPLIT])
@pytest.mark.parametrize(
    "messages",
    [
        chat("a desk", "item: none " * 60),
        [system("Be brief. " * 60), *chat("a desk", "item: desk")],
    ],
    ids=["answer", "system"],
)
def test_where_what_may_not_be_cut_is_too_long_the_row_is_dropped(tokenizer, policy, messages):
    rows, finding = fitted(tokenizer, messages, policy)
    assert rows == []
    assert finding[:2] == ("too_long", "drop")
    assert "does not fit" in finding.detail


@pytest.mark.parametrize("policy", [LEFT, RIGHT])
def test_a_row_of_whose_prompt_nothing_would_be_left_is_dropped(tokenizer, policy):
    answer = "item: desk"
    limit = len(only_row(tokenizer, chat("", answer))[0])
    rows, finding = fitted(tokenizer, chat("please " * 50, answer), policy, limit)
    assert (rows, finding.action) == ([], "drop")
    (row,), finding = fitted(tokenizer, chat("please " * 50, answer), policy, limit + 8)
    assert turns(tokenizer, row[0])[0][1].strip()
    assert finding.action == "change"


def test_untrained_answers_are_not_cut_either(tokenizer):
    said = "item: chair; count: 3"
    messages = [user("please " * 80), turn("assistant", said, trained=False), *chat("a", "b")]
    ((ids, labels),), _ = fitted(tokenizer, messages, LEFT)
    assert turns(tokenizer, ids)[1:] == [("assistant", said), ("user", "a"), ("assistant", "b")]
    assert [tokenizer.decode(run) for _, run in trained(ids, labels)] == ["b<|end|>"]


def test_a_conversation_is_split_between_its_exchanges(tokenizer):
    exchanges = [chat(f"bring {n} desks", f"item: desk; count: {n}") for n in range(12)]
    messages = [system("Be brief."), *(each for exchange in exchanges for each in exchange)]
    rows, finding = fitted(tokenizer, messages, SPLIT, 128)
    parts = [turns(tokenizer, ids) for ids, _ in rows]
    assert len(parts) > 1
    assert all(part[0] == ("system", "Be brief.") for part in parts)
    assert [each for part in parts for each in part[1:]] == pairs(messages[1:])
    assert all(len(part) % 2 for part in parts)
    assert finding.detail.endswith(f"split into {len(parts)} rows")
    for ids, labels in rows:
        assert len(trained(ids, labels)) == len(turns(tokenizer, ids)) // 2
    for (ids, _), following in zip(rows, parts[1:], strict=False):
        exchange = [turn(*each) for each in following[1:3]]
        grown = [turn(*each) for each in turns(tokenizer, ids)] + exchange
        assert len(only_row(tokenizer, grown)[0]) > 128, "as few parts as there can be"


def test_an_exchange_too_long_by_itself_is_left_out_and_the_others_keep_their_order(tokenizer):
    short = [chat(f"bring {n} desks", f"item: desk; count: {n}") for n in range(4)]
    messages = [*short[0], *short[1], *chat("a", "item: none " * 60), *short[2], *short[3]]
    rows, finding = fitted(tokenizer, messages, SPLIT, 80)
    found = [each for ids, _ in rows for each in turns(tokenizer, ids)]
    assert found == [each for exchange in short for each in pairs(exchange)]
    assert any(turns(tokenizer, ids)[:2] == pairs(short[2]) for ids, _ in rows), (
        "what comes behind a gap does not follow what came before it"
    )
    assert finding.action == "change"
    assert re.search(r"fit into none", finding.detail), "that an answer is lost must be said"


def test_a_call_its_result_and_the_answer_stay_together():
    tokenizer = tiny("byte level", CHATML)
    exchange = [user("desk?"), assistant("look"), turn("tool", "7"), assistant("7 desks")]
    length = len(only_row(tokenizer, exchange)[0])
    rows, _ = fitted(tokenizer, exchange * 3, SPLIT, length)
    assert [ids for ids, _ in rows] == [only_row(tokenizer, exchange)[0]] * 3


def test_a_question_that_is_not_to_be_learned_stays_before_the_one_that_is(tokenizer):
    """Where all but the last answer have weight 0, what leads to it is what it depends on."""
    messages = [
        *chat("please " * 80, "none"),
        *chat("bring 2 desks", "item: desk; count: 2", "and 1 more", "item: desk; count: 3"),
    ]
    for message in messages[:-1]:
        message["trained"] = False
    ((ids, labels),), _ = fitted(tokenizer, messages, SPLIT, 96)
    assert [tokenizer.decode(run) for _, run in trained(ids, labels)] == [
        "item: desk; count: 3<|end|>"
    ]
    assert turns(tokenizer, ids) == pairs(messages[2:])


TEXT = " ".join(f"bring {n} desks and {n} chairs" for n in range(40))


def own(tokenizer, text):
    """The tokens that a tokenizer itself gives a text, the begin token apart, and the end."""
    ids = tokenizer(text)["input_ids"]
    begin = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    return begin, [*ids[len(begin) :], tokenizer.eos_token_id]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"metaspace first"}))
def test_the_pieces_of_a_plain_text_are_the_whole(kind):
    tokenizer = tiny(kind)
    begin, whole = own(tokenizer, TEXT)
    assert len(whole) > 2 * LIMIT
    rows, finding = fitted(tokenizer, [plain_text(TEXT)], SPLIT)
    assert all(ids[: len(begin)] == begin for ids, _ in rows)
    learned = [label for _, labels in rows for label in labels if label != IGNORED]
    assert learned == whole
    for ids, labels in rows[:-1]:
        assert len(ids) == LIMIT
        assert labels == [IGNORED] * len(begin) + ids[len(begin) :]
    assert finding.detail.endswith(f"split into {len(rows)} rows")


@pytest.mark.parametrize("kind", ["byte level", "metaspace always"])
@pytest.mark.parametrize("policy", [LEFT, RIGHT])
def test_a_plain_text_is_cut_at_one_end(kind, policy):
    tokenizer = tiny(kind)
    begin, whole = own(tokenizer, TEXT)
    ((ids, labels),), finding = fitted(tokenizer, [plain_text(TEXT)], policy)
    room = LIMIT - len(begin)
    assert ids == begin + (whole[-room:] if policy == LEFT else whole[:room])
    assert labels == [IGNORED] * len(begin) + ids[len(begin) :]
    assert (finding.action, finding.detail[-15:]) == ("change", "the text is cut")


@pytest.mark.parametrize("kind", ["byte level", "metaspace always"])
def test_every_piece_of_a_plain_text_has_a_token_that_something_leads_to(kind):
    """A row's first token is predicted from nothing, so a row of one teaches nothing."""
    tokenizer = tiny(kind)
    for count in range(1, 3 * LIMIT):
        rows, _ = fitted(tokenizer, [plain_text("desks " * count)], SPLIT, 16)
        assert all(len(ids) > 1 for ids, _ in rows), count


def test_a_text_beyond_the_limit_is_dropped_where_the_config_says_so(tokenizer):
    rows, finding = fitted(tokenizer, [plain_text(TEXT)], DROP)
    assert rows == []
    assert finding[:2] == ("too_long", "drop")


def test_a_template_that_refuses_what_is_left_is_heard():
    tokenizer, messages = tiny("byte level"), chat("desk " * 100, "item: desk")
    refuses = "{% if messages[0].content | length < 500 %}{{ raise_exception('short') }}{% endif %}"
    tokenizer.chat_template = refuses + CHATML
    rows, finding = fitted(tokenizer, messages, LEFT, refused="drop")
    assert (rows, finding[:2]) == ([], ("template", "drop"))
    with pytest.raises(TemplateError, match=r"^1: .*short"):
        fitted(tokenizer, messages, LEFT, refused="error")
