"""Exactly the answers and their end tokens are trained, or the template is refused."""

from __future__ import annotations

import pytest

from finetune_core.data.masks import Span, labels, mask
from finetune_core.data.templates import make_renderer
from finetune_core.exceptions import TemplateError
from finetune_core.types import Template

END = "<|end|>"


def turn(role, content, trained=None):
    return {
        "role": role,
        "content": content,
        "trained": role == "assistant" if trained is None else trained,
    }


def chat(*contents):
    """A conversation in which user and assistant speak by turns."""
    roles = ("user", "assistant")
    return [turn(roles[number % 2], content) for number, content in enumerate(contents)]


def trained_runs(messages, tokenizer, template=Template.CHAT):
    """What the trained tokens decode to, each unbroken run of them by itself."""
    masked = mask(messages, make_renderer(template, tokenizer))
    row = tokenizer(masked.text, add_special_tokens=False, return_offsets_mapping=True)
    marked = labels(row["input_ids"], row["offset_mapping"], masked.spans)
    assert all(
        label in (-100, token) for label, token in zip(marked, row["input_ids"], strict=True)
    )
    runs, previous = [], -100
    for label in marked:
        if label != -100:
            if previous == -100:
                runs.append([])
            runs[-1].append(label)
        previous = label
    return [tokenizer.decode(run) for run in runs]


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
        "a<|end|>b",
    ],
)
def test_one_answer_is_trained_with_its_end_token(tokenizer, answer):
    assert trained_runs(chat("question", answer), tokenizer) == [answer + END]


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


# As templates of reasoning models do: an answer loses its first part once another turn follows.
REWRITES = (
    "{% for m in messages %}[{{ m.role }}]"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PROMPT_ONLY = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<think></think>{% endif %}"
)
TRIMS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHOOSY = "{{ raise_exception('roles must alternate') }}"


@pytest.mark.parametrize(
    ("template", "messages", "problem"),
    [
        (
            REWRITES,
            chat("q", "<think>x</think>a", "r", "b"),
            "rewrites what comes before message 2",
        ),
        (PROMPT_ONLY, chat("q", "a"), "rewrites what comes before message 2"),
        (TRIMS, chat("q", " a "), "alters the answer of message 2"),
        (ENDLESS, chat("q", "a"), "does not end the answer of message 2"),
        (CHOOSY, chat("q", "a"), "refuses the messages: roles must alternate"),
    ],
    ids=["rewrites", "other generation prompt", "trims", "no end token", "raises"],
)
def test_a_template_from_which_the_answers_cannot_be_told_is_refused(
    tokenizer, template, messages, problem
):
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match=problem):
        mask(messages, make_renderer(Template.CHAT, tokenizer))


def test_a_rewriting_template_is_right_where_there_is_nothing_to_rewrite(tokenizer):
    tokenizer.chat_template = REWRITES
    messages = chat("q", "<think>x</think>a")
    assert trained_runs(messages, tokenizer) == ["<think>x</think>a" + END]


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


def test_a_token_is_trained_where_it_reaches_into_a_span():
    offsets = [(0, 0), (0, 3), (2, 4), (4, 7), (7, 9)]
    assert labels([10, 11, 12, 13, 14], offsets, [Span(3, 7)]) == [-100, -100, 12, 13, -100]
