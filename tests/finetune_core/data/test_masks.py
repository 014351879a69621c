"""Exactly the answers and their end tokens are trained, or the template is refused."""

from __future__ import annotations

import pytest

from finetune_core.data.masks import mask
from finetune_core.data.templates import make_renderer
from finetune_core.exceptions import TemplateError
from finetune_core.types import Template
from tests.finetune_core.data.conftest import chat, tokens_of, trained
from tests.finetune_core.data.turns import turn

END = "<|end|>"


def trained_runs(messages, tokenizer, template=Template.CHAT):
    """What the trained tokens decode to, each unbroken run of them by itself."""
    found = trained(*tokens_of(tokenizer, messages, template=template))
    return [tokenizer.decode(run) for _, run in found]


@pytest.mark.parametrize(
    "answer",
    [
        "item: desk; count: 3",
        "x",
        " spaces around ",
        "two\nlines\n",
        "Größe 数据 😀",
        "user",
        "\n",
    ],
)
def test_one_answer_is_trained_with_its_end_token(tokenizer, answer):
    assert trained_runs(chat("question", answer), tokenizer) == [answer + END]


@pytest.mark.parametrize("answer", ["a<|end|>b", "a<|end|>"])
def test_an_answer_that_holds_the_end_token_is_refused(tokenizer, answer):
    """The model would learn to stop there, and never write what stands behind it."""
    with pytest.raises(TemplateError, match="has the end token"):
        trained_runs(chat("question", answer), tokenizer)


def test_every_answer_of_a_conversation_is_trained(tokenizer):
    messages = [turn("system", "s"), *chat("q", "first", "r", "second", "s", "first")]
    expected = ["first" + END, "second" + END, "first" + END]
    assert trained_runs(messages, tokenizer) == expected


def test_a_turn_of_weight_0_is_not_trained(tokenizer):
    messages = [
        turn("user", "q"),
        turn("assistant", "same", trained=False),
        turn("user", "r"),
        turn("assistant", "same"),
    ]
    masked = mask(messages, make_renderer(Template.CHAT, tokenizer))
    assert trained_runs(messages, tokenizer) == ["same" + END]
    assert masked.text[: masked.spans[0].start].count("same") == 1  # it is the second of the two


def test_a_question_that_holds_the_answer_does_not_draw_the_mask_to_it(tokenizer):
    masked = mask(chat("say yes", "yes"), make_renderer(Template.CHAT, tokenizer))
    assert masked.text[: masked.spans[0].start].endswith("<|start|>assistant\n")


def test_the_text_is_that_of_the_chat_template(tokenizer):
    masked = mask(chat("q", "a"), make_renderer(Template.CHAT, tokenizer))
    assert masked.text == f"<|bos|><|start|>user\nq{END}\n<|start|>assistant\na{END}\n"
    assert masked.text[slice(*masked.spans[0])] == "a" + END


def test_what_the_template_puts_behind_the_end_token_is_not_trained(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }} -- {% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert trained_runs(chat("q", "a", "r", "b"), tokenizer) == ["a" + END, "b" + END]


def test_blanks_that_the_template_strips_are_not_trained(tokenizer):
    tokenizer.chat_template = TRIMS
    assert trained_runs(chat("q", " a\n", "r", "\n", "s", "b "), tokenizer) == [
        "a" + END,
        END,
        "b" + END,
    ]


def test_what_the_model_must_write_around_the_answer_is_trained(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]"
        "{{ '(final)' + m.content + '(/final)' if m.role == 'assistant' else m.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert trained_runs(chat("q", "final", "r", "b"), tokenizer) == [
        "(final)final(/final)" + END,
        "(final)b(/final)" + END,
    ]


def written(answer, prompt="[assistant]", end="{{ eos_token }}"):
    """A template that writes answers so, and other turns as they are."""
    return (
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
        + answer
        + end
        + "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}" + prompt + "{% endif %}"
    )


# As templates of reasoning models do: an answer loses its first part once another turn follows.
REWRITES = written("{{ m.content if loop.last else m.content.split('</think>')[-1] }}")
EMPTY_THOUGHT = written("{{ '' if not loop.last else '<think></think>' }}{{ m.content }}")
PROMPT_THOUGHT = EMPTY_THOUGHT.replace("[assistant]", "[assistant]<think></think>")
OPEN_THOUGHT = written("{{ m.content }}", prompt="[assistant]<think>")
TRIMS = written("{{ m.content | trim }}")
LOWERS = written("{{ m.content | lower }}")
COUNTS = written("{{ m.content | length }}: {{ m.content }}")
LEAVES_OUT = written("{% for part in m.content %}{{ part.text }}{% endfor %}")
REPEATS = written("{{ m.content }}{{ m.content }}")
ENDLESS = written("{{ m.content }}", end="</turn>")
TWO_ENDS = written("{{ m.content }}", end="{{ eos_token if loop.last else '</turn>' }}")
CHOOSY = "{{ raise_exception('roles must alternate') }}"
BROKEN = "{{ messages[0].content + 1 }}"
REASONED = "<think>x</think>a"
ONE, TWO = chat("q", "a"), chat("q", "a", "r", "b")


@pytest.mark.parametrize(
    ("template", "messages", "problem"),
    [
        (REWRITES, chat("q", REASONED, "r", "b"), "alters the answer of message 2"),
        (PROMPT_THOUGHT, TWO, "rewrites the answer of message 2"),
        (OPEN_THOUGHT, ONE, r"otherwise than its .* ends with '.*\[assistant\]<think>'"),
        (LOWERS, chat("q", "A"), "alters the answer of message 2"),
        (COUNTS, ONE, "alters the answer of message 2"),
        (LEAVES_OUT, ONE, "leaves out the answer of message 2"),
        (REPEATS, ONE, "repeats the answer of message 2"),
        (ENDLESS, ONE, r"does not end .* '<\|end\|>', but with '</turn>'"),
        (TWO_ENDS, TWO, "rewrites the answer of message 2"),
        (CHOOSY, ONE, "refuses the messages: roles must alternate"),
        (BROKEN, ONE, "refuses the messages: can only concatenate str"),
    ],
)
def test_a_template_from_which_the_answers_cannot_be_told_is_refused(
    tokenizer, template, messages, problem
):
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match=problem):
        mask(messages, make_renderer(Template.CHAT, tokenizer))


@pytest.mark.parametrize("template", [PROMPT_THOUGHT, TWO_ENDS, REWRITES])
def test_a_rewriting_template_is_right_where_only_the_last_answer_is_trained(tokenizer, template):
    tokenizer.chat_template = template
    messages = chat("q", REASONED, "r", "b")
    messages[1]["trained"] = False
    assert trained_runs(messages, tokenizer) == ["b" + END]


def test_a_rewriting_template_is_right_where_there_is_nothing_to_rewrite(tokenizer):
    tokenizer.chat_template = REWRITES
    assert trained_runs(chat("q", REASONED), tokenizer) == [REASONED + END]
    assert trained_runs(TWO, tokenizer) == ["a" + END, "b" + END]


def test_an_early_answer_may_lose_the_marks_that_only_the_last_one_has(tokenizer):
    tokenizer.chat_template = EMPTY_THOUGHT
    assert trained_runs(TWO, tokenizer) == ["a" + END, "<think></think>b" + END]


def test_an_answer_begins_where_its_generation_prompt_ends(tokenizer):
    tokenizer.chat_template = OPEN_THOUGHT
    assert trained_runs(chat("q", REASONED), tokenizer) == ["x</think>a" + END]


CALLS = written(
    "{{ m.content }}{% for c in m.tool_calls %}<call>{{ c.function | tojson }}</call>{% endfor %}"
)
TEXT_ALONE = written("{{ m.content }}")
CALL = '[{"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}]'


@pytest.mark.parametrize("content", ["", "I look."])
def test_the_calls_of_an_answer_are_trained(tokenizer, content):
    tokenizer.chat_template = CALLS
    messages = [turn("user", "q"), {**turn("assistant", content), "tool_calls": CALL}]
    call = '<call>{"name": "weather", "arguments": {"city": "Köln"}}</call>'
    assert trained_runs(messages, tokenizer) == [content + call + END]


@pytest.mark.parametrize(
    ("template", "call", "problem"),
    [
        (Template.CHAT, CALL, "leaves out the answer of message 2"),
        (Template.PLAIN, CALL, "leaves out the answer of message 2"),
        (Template.CHAT, CALL.replace("Köln", END), r"has the end token '<\|end\|>' in it"),
    ],
)
def test_a_call_that_is_not_or_cannot_be_written_is_refused(tokenizer, template, call, problem):
    tokenizer.chat_template = CALLS if END in call else TEXT_ALONE
    messages = [turn("user", "q"), {**turn("assistant", "a"), "tool_calls": call}]
    with pytest.raises(TemplateError, match=problem):
        trained_runs(messages, tokenizer, template)


def test_a_template_that_drops_the_text_beside_a_call_is_refused(tokenizer):
    tokenizer.chat_template = CALLS.replace(
        "m.content }}", "'' if m.tool_calls else m.content }}", 1
    )
    messages = [turn("user", "q"), {**turn("assistant", "call"), "tool_calls": CALL}]
    with pytest.raises(TemplateError, match="leaves out the answer of message 2"):
        trained_runs(messages, tokenizer)


def test_a_conversation_that_begins_with_a_trained_answer_is_refused(tokenizer):
    messages = [turn("assistant", "hello"), *chat("q", "a")]
    with pytest.raises(TemplateError, match="nothing is asked"):
        trained_runs(messages, tokenizer)


def test_the_plain_template_is_prompt_newline_answer_end(tokenizer):
    renderer = make_renderer(Template.PLAIN, tokenizer)
    assert mask(chat("q", "a"), renderer).text == f"q\na{END}"
    assert trained_runs(chat("q", "a", "r", "b"), tokenizer, Template.PLAIN) == [
        "a" + END,
        "b" + END,
    ]


def test_auto_takes_the_chat_template_where_there_is_one(tokenizer):
    assert make_renderer(Template.AUTO, tokenizer).name == "chat"
    tokenizer.chat_template = None
    assert make_renderer(Template.AUTO, tokenizer).name == "plain"


def test_a_chat_template_that_is_asked_for_must_be_there(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        make_renderer(Template.CHAT, tokenizer)


@pytest.mark.parametrize("template", list(Template))
def test_a_tokenizer_without_an_end_token_is_refused(tokenizer, template):
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="no end token"):
        make_renderer(template, tokenizer)


TOOLS = '[{"type": "function", "function": {"name": "weather"}}]'


def test_tools_are_written_where_the_template_has_a_place_for_them(tokenizer):
    tokenizer.chat_template = (
        "{% if tools %}TOOLS {{ tools[0].function.name }}\n{% endif %}" + TEXT_ALONE
    )
    renderer = make_renderer(Template.CHAT, tokenizer)
    text, (span,) = mask(chat("q", "a"), renderer.with_tools(TOOLS))
    assert text.startswith("TOOLS weather\n")
    assert text[span.start : span.end] == "a" + END
    assert mask(chat("q", "a"), renderer.with_tools(None)).text == text.removeprefix(
        "TOOLS weather\n"
    )


@pytest.mark.parametrize("template", [Template.CHAT, Template.PLAIN])
def test_tools_that_would_be_left_out_are_refused(tokenizer, template):
    tokenizer.chat_template = TEXT_ALONE
    with pytest.raises(TemplateError, match="no place for the tools"):
        make_renderer(template, tokenizer).with_tools(TOOLS)
