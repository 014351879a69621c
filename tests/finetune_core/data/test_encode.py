"""The trained tokens are the answers, whatever the tokenizer: nothing more and nothing less."""

from __future__ import annotations

import json
import random
import shutil

import pyarrow as pa
import pytest

from finetune_core.config import TokenizationConfig
from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.data.encode import TOKENS_SCHEMA, Encoder, Recipe, encode, load_tokenizer
from finetune_core.data.formats import Conversation, assistant, plain_text, system, user
from finetune_core.data.masks import IGNORED, mask
from finetune_core.data.rows import ROWS_SCHEMA, to_columns
from finetune_core.data.templates import make_renderer
from finetune_core.exceptions import ModelLoadError, TemplateError
from finetune_core.models.source import digest_tokenizer
from finetune_core.types import Task, Template
from tests.finetune_core.data.conftest import KINDS, chat, runs, tiny, tokens_of, trained
from tests.finetune_core.data.turns import turn

# Its generation prompt ends with a blank, with which most tokenizers begin the word behind it.
BLANK = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LINES = BLANK.replace(": ", ":\n")
# As Llama 2 has it: the answer begins with a blank, and the generation prompt adds nothing.
INST = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
TEMPLATES = {"blank": BLANK, "lines": LINES, "inst": INST, "plain": None}

WORDS = ["bring", "desks", "7", "two red chairs", "item: desk", "yes,", "it", "a", "x"]
BLANKS = ["", " ", "  ", "\n", "\n\n", " \n "]
FOREIGN = ["Größe", "数据", "😀", "e\u0301", "\u00a0", "it's", "\t", "<s>"]
LOSSLESS = ("byte level", "byte level, trimmed", "byte fallback")
# They begin all that stands behind a special token with a blank, or lose blanks.
ALTERS_BLANKS = (
    "byte level, prefix",
    "byte level, prefix, trimmed",
    "metaspace always",
    "byte fallback",
    "word piece",
)
APART = "does not write the two apart"


def conversations(kind, count=40):
    """Conversations of which every tokenizer of the kind knows all characters."""
    chance = random.Random(count)
    words = WORDS + (FOREIGN if kind in LOSSLESS else [])

    def content():
        parts = [chance.choice(words) + chance.choice(BLANKS) for _ in range(chance.randint(1, 4))]
        return chance.choice(BLANKS) + "".join(parts)

    for _ in range(count):
        turns = [system(content())] if chance.random() < 0.3 else []
        for _ in range(chance.randint(1, 3)):
            turns.append(user(content()))
            turns.append(turn("assistant", content(), trained=chance.random() < 0.8))
        turns[-1]["trained"] = True
        yield turns


def alone(tokenizer, text):
    """The tokens of a text by itself."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def squashed(text):
    return "".join(text.lower().split())


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_and_their_ends_are_trained_and_nothing_else(kind, template):
    tokenizer, rows = tiny(kind, TEMPLATES[template]), list(conversations(kind))
    refused, reasons = 0, set()
    renderer = make_renderer(Template.AUTO, tokenizer)
    for messages in rows:
        text, spans = mask(messages, renderer)
        try:
            ids, labels = tokens_of(tokenizer, messages, template="auto")
        except TemplateError as error:
            refused += 1
            reasons.add(APART in error.message)
            continue
        found = trained(ids, labels)
        assert len(found) == len(spans)
        assert squashed(tokenizer.decode(ids)) == squashed(text)
        for (first, run), (start, end) in zip(found, spans, strict=True):
            assert run[-1] == tokenizer.eos_token_id
            last = first + len(run)
            before, until = tokenizer.decode(ids[:first]), tokenizer.decode(ids[:last])
            if kind in ALTERS_BLANKS or renderer.begin:
                assert squashed(tokenizer.decode(run)) == squashed(text[start:end])
                assert squashed(before) == squashed(text[:start])
            else:
                assert (before, until) == (text[:start], text[:end])
        first, start = found[0][0], spans[0].start
        begin = renderer.begin  # its token goes before what the tokenizer sees as a text's start
        asked = alone(tokenizer, begin) + alone(tokenizer, text[len(begin) : start])
        assert ids[:first] == asked, "as it is asked at inference"
    assert refused < len(rows)
    assert reasons <= {True}
    if kind in ("byte level", "byte level, trimmed", "metaspace never"):
        assert not refused


def said(kind, messages, template):
    """The tokens of a row by name: the runs that are not trained, and those that are."""
    tokenizer = tiny(kind, template)
    ids, labels = tokens_of(tokenizer, messages)
    names = tokenizer.convert_ids_to_tokens
    return [names(run) for _, run in runs(ids, [label == IGNORED for label in labels])], [
        names(run) for _, run in trained(ids, labels)
    ]


def test_a_token_that_would_reach_into_the_answer_is_cut_in_two():
    tokenizer = tiny("byte level", BLANK)
    together = tokenizer.convert_ids_to_tokens(alone(tokenizer, "assistant: yes"))
    assert together[-1] == "Ġyes"
    asked, answers = said("byte level", chat("a", "yes", "b", "yes"), BLANK)
    assert ["".join(answer) for answer in answers] == ["yes</s>", "yes</s>"]
    assert [each[-1] for each in asked] == ["Ġ", "Ġ", "Ċ"]


@pytest.mark.parametrize("trim", [False, True])
def test_offsets_without_blanks_hide_no_token_that_reaches_into_the_answer(trim):
    kind = "byte level, trimmed" if trim else "byte level"
    _, answers = said(kind, chat("a", "yes"), BLANK)
    assert ["".join(answer) for answer in answers] == ["yes</s>"]


@pytest.mark.parametrize("kind", ["byte level", "byte level, trimmed"])
def test_the_blanks_with_which_an_answer_begins_are_trained(kind):
    _, answers = said(kind, chat("a", "   yes"), LINES)
    assert "".join(answers[0]) == "ĠĠĠyes</s>"


def test_what_needs_no_cut_is_encoded_whole():
    tokenizer = tiny("byte level", LINES)
    ids, _ = tokens_of(tokenizer, chat("bring two desks", "yes, it is", "a", "b"))
    text = "user:\nbring two desks\nassistant:\nyes, it is</s>\nuser:\na\nassistant:\nb</s>\n"
    assert ids == alone(tokenizer, text)


def test_a_tokenizer_that_cannot_write_the_two_apart_is_refused():
    with pytest.raises(TemplateError, match=f"^1: .*{APART}") as caught:
        tokens_of(tiny("metaspace always", BLANK), chat("a", "yes"))
    assert "without white space" in caught.value.hint


def test_a_character_of_several_tokens_is_trained_whole():
    for kind, first, last in (("byte fallback", "<0xF0>", "<0x80>"), ("byte level", "ð", "Ģ")):
        _, ((*answer, end),) = said(kind, chat("a", "😀"), LINES)
        assert (len(answer), answer[0], answer[-1], end) == (4, first, last, "</s>")


def test_what_the_tokenizer_leaves_out_before_an_answer_does_not_move_it():
    _, answers = said("word piece", chat("A desk", "\x00 \u200b Desk"), LINES)
    assert answers == [["desk", "</s>"]]


def test_an_answer_that_the_tokenizer_leaves_out_is_trained_to_end():
    assert said("word piece", chat("a", "\x00"), LINES)[1] == [["</s>"]]


@pytest.fixture
def swallows():
    """As Phi 3 has it: what says who speaks, and what ends it, take the blanks behind them."""
    from tokenizers import AddedToken

    tokenizer = tiny("byte level")
    for name in ("<|user|>", "<|assistant|>", "<|end|>"):
        tokenizer.add_tokens(AddedToken(name, rstrip=True, special=True), special_tokens=True)
    tokenizer.eos_token = "<|end|>"
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    return tokenizer


def test_special_tokens_that_take_the_blanks_behind_them_leave_the_answer_whole(swallows):
    ids, labels = tokens_of(swallows, chat("a", "yes, it", "b", "a"))
    runs_ = [swallows.decode(run) for _, run in trained(ids, labels)]
    assert runs_ == ["yes, it<|end|>", "a<|end|>"]


def test_an_answer_whose_blanks_a_special_token_takes_is_refused(swallows):
    with pytest.raises(TemplateError, match=APART):
        tokens_of(swallows, chat("a", "  yes"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_text_is_the_tokenizers_own_tokens_and_the_end(kind):
    tokenizer, text = tiny(kind), "bring two desks\n\nitem: desk"
    encoder = Encoder(tokenizer, TokenizationConfig())
    (((tokens,), finding),) = encoder.encode([Conversation([plain_text(text)])], [1])
    assert finding is None
    own = tokenizer(text)["input_ids"]
    assert tokens.ids.tolist() == [*own, tokenizer.eos_token_id]
    begin = int(own[0] == tokenizer.bos_token_id)
    assert begin == (kind.startswith("metaspace") or kind == "byte fallback")
    assert tokens.labels.tolist() == [IGNORED] * begin + tokens.ids.tolist()[begin:]


def test_a_plain_text_never_meets_the_chat_template(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('asked') }}"
    ids, _ = tokens_of(tokenizer, [plain_text("two desks")])
    assert tokenizer.decode(ids) == "two desks<|end|>"


def batch(*conversations, file="training"):
    """Clean rows, numbered from 1."""
    places = [
        pa.array([file] * len(conversations), pa.string()),
        pa.array(range(1, len(conversations) + 1), pa.int64()),
    ]
    return pa.RecordBatch.from_arrays([*places, *to_columns(conversations)], schema=ROWS_SCHEMA)


def ask(*contents):
    return Conversation(chat(*contents))


def encoded(folder, *conversations, sanitize=None, **config):
    config = TokenizationConfig(**config)
    recipe = Recipe(folder, digest_tokenizer(folder), config, Task.CAUSAL, ())
    return encode(recipe, sanitize or SanitizeConfig(), batch(*conversations))


def test_a_batch_is_as_long_as_its_rows_and_says_whose_they_are(tiny_base, tokenizer):
    rows = [ask("two desks", "item: desk"), ask("a " * 40, "b"), ask("x", "item: chair; count: 1")]
    result = encoded(tiny_base, *rows, max_length=32)
    assert result.tokens.schema == TOKENS_SCHEMA
    columns = result.tokens.to_pydict()
    assert columns["row"] == [1, 3]
    texts = [tokenizer.decode(ids) for ids in columns["input_ids"]]
    assert [text.count("<|start|>") for text in texts] == [2, 2]
    assert columns["length"] == [len(ids) for ids in columns["input_ids"]]
    assert columns["length"] == [len(labels) for labels in columns["labels"]]
    learned = [label for labels in columns["labels"] for label in labels if label != IGNORED]
    assert result.trained == len(learned)
    assert tokenizer.decode(learned) == "item: desk<|end|>item: chair; count: 1<|end|>"
    assert (result.rows, [each.row for each in result.revisions]) == (3, [2])


@pytest.mark.parametrize("rows", [0, 2])
def test_a_batch_of_which_nothing_is_left_is_an_empty_one(tiny_base, rows):
    result = encoded(tiny_base, *[ask("a " * 40, "b")] * rows, max_length=16)
    assert (result.rows, result.tokens.num_rows, result.trained) == (rows, 0, 0)
    assert len(result.revisions) == rows


def test_a_tokenizer_that_would_cut_and_fill_up_does_neither(tmp_path, tiny_base):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        shutil.copy(tiny_base / name, tmp_path)
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    file["truncation"] = {
        "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    file["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    rows = [ask("bring me two red desks", "item: desk"), ask("x", "y")]
    assert encoded(tmp_path, *rows).tokens == encoded(tiny_base, *rows).tokens


def test_a_row_that_is_refused_is_named_by_its_number(tiny_base):
    rows = [ask("a", "b"), Conversation([user("x")]), Conversation([assistant("x")])]
    with pytest.raises(TemplateError, match=r"^row 2 of the training file: no token"):
        encoded(tiny_base, *rows)


def test_refused_rows_can_be_dropped(tiny_base):
    rows = [
        Conversation([assistant("hello"), *chat("a", "b")]),
        ask("a", "b"),
        Conversation([user("x")]),
        Conversation(chat("a", "b"), tools='[{"name": "weather"}]'),
        ask("c", "d"),
    ]
    result = encoded(tiny_base, *rows, refused="drop")
    assert result.tokens["row"].to_pylist() == [2, 4, 5]
    assert [(each.row, each.finding[:2]) for each in result.revisions] == [
        (1, ("template", "drop")),
        (3, ("template", "drop")),
    ]
    assert "nothing is asked" in result.revisions[0].finding.detail
    assert json.loads(result.revisions[1].original)["messages"] == [user("x")]


def test_tools_without_a_place_are_refused_as_the_rest_is():
    row = Conversation(chat("a", "b"), tools='[{"name": "weather"}]')
    encoder = Encoder(tiny("byte level", LINES), TokenizationConfig(refused="drop"))
    ((tokens, finding),) = encoder.encode([row], [7])
    assert (tokens, finding.rule, finding.action) == ([], "template", "drop")
    assert "no place for the tools" in finding.detail


def test_a_row_that_the_tokenizer_refuses_does_not_shift_the_others():
    tokenizer = tiny("metaspace always", BLANK)
    rows = [ask("a", "\nit"), ask("b", "yes"), Conversation([user("x")]), ask("c", "\na")]
    results = Encoder(tokenizer, TokenizationConfig(refused="drop")).encode(rows, [1, 2, 3, 4])
    assert [finding and finding.rule for _, finding in results] == [
        None, "template", "template", None,
    ]  # fmt: skip
    for (tokens, _), content in ((results[0], "it"), (results[3], "a")):
        assert content in tokenizer.decode([n for n in tokens[0].labels.tolist() if n != IGNORED])


CALLS = [{"type": "function", "function": {"name": "save", "arguments": {"text": ""}}}]
KEY = "AKIAIOSFODNN7EXAMPLE"  # from AWS's documentation; it opens nothing


@pytest.mark.parametrize("before", ["", "the key: ", "the key:\n", "\u201e"])
@pytest.mark.parametrize("place", ["content", "call", "tools", "rejected"])
def test_what_is_personal_never_stands_in_an_original(tiny_base, place, before):
    secret, messages, tools, rejected = before + KEY, chat("a " * 40, "b"), None, []
    if place == "content":
        messages[0]["content"] += secret
    elif place == "call":
        CALLS[0]["function"]["arguments"]["text"] = secret
        messages[1]["tool_calls"] = json.dumps(CALLS)
    elif place == "tools":
        tools = json.dumps([{"name": "save", "description": secret}])
    else:
        rejected = [assistant(secret)]
    result = encoded(tiny_base, Conversation(messages, tools, rejected), max_length=16)
    (revision,) = result.revisions
    assert KEY not in revision.original
    assert "[SECRET]" in revision.original


@pytest.mark.parametrize(("action", "shown"), [("off", True), ("flag", False), ("redact", False)])
def test_an_original_is_redacted_as_the_config_says(tiny_base, action, shown):
    row = ask("a " * 40 + " mail max@example.org", "b")
    result = encoded(tiny_base, row, max_length=16, sanitize=SanitizeConfig(email=action))
    original = json.loads(result.revisions[0].original)
    assert ("max@example.org" in original["messages"][0]["content"]) is shown
    assert ("[EMAIL]" in original["messages"][0]["content"]) is not shown


def test_broken_text_does_not_hide_what_is_personal_in_an_original(tiny_base):
    broken = KEY.replace("AK", "AK\u0007")
    row = ask("a " * 40 + broken, "b")
    result = encoded(tiny_base, row, max_length=16, sanitize=SanitizeConfig(unicode="flag"))
    content = json.loads(result.revisions[0].original)["messages"][0]["content"]
    assert KEY not in content.replace("\u0007", "")


def test_a_broken_tokenizer_is_named(tmp_path, tiny_base):
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(tiny_base / name, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
