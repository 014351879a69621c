"""Masks over the chat templates of real models, which TRL's package carries.

For each template and conversation, what is trained is told here from a table, without
`masks`: the answer, as the template writes it, and what ends it; or the template is refused.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from finetune_core.data.encode import load_tokenizer
from finetune_core.exceptions import TemplateError
from tests.finetune_core.data.conftest import chat, runs, tokens_of, trained
from tests.finetune_core.data.turns import turn

NO_THOUGHT = "<think>\n\n</think>\n\n"
BAR = "\uff5c"  # a wide one, as DeepSeek's special tokens have it
SPECIAL = re.compile(rf"<[|{BAR}][^<>\s]+>|<\w+\|>|</?[a-z_]+>")


class Shape(NamedTuple):
    """How a template writes an answer: `header prompt lead ANSWER tail end`."""

    end: str  # the token that ends it, which is the tokenizer's eos_token
    header: str  # what tells that the assistant speaks
    prompt: str = ""  # what the generation prompt adds to it
    lead: str = ""  # what the model must write before the answer
    tail: str = ""  # what the model must write between answer and end token
    early_lead: str | None = None  # the lead of answers with turns behind them, if another
    strips: bool = False  # whether blanks around answers are lost


COHERE = Shape("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", strips=True)
DEEPSEEK = Shape(f"<{BAR}end▁of▁sentence{BAR}>", f"<{BAR}Assistant{BAR}>")
GEMMA = Shape("<end_of_turn>", "<start_of_turn>model\n", strips=True)
GEMMA4 = Shape("<turn|>", "<|turn>model\n", strips=True)
LLAMA3 = Shape("<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", strips=True)
CHATML = Shape("<|im_end|>", "<|im_start|>assistant\n")
THINKS = CHATML._replace(prompt="<think>\n", lead="\n</think>\n\n", strips=True)
VISION = Shape("<end_of_utterance>", "Assistant:")

SHAPES = {
    "cohere": COHERE,
    "cohere2": COHERE._replace(prompt="<|START_RESPONSE|>", tail="<|END_RESPONSE|>", strips=False),
    "deepseek_r1_distill": DEEPSEEK,
    "deepseekv3": DEEPSEEK,
    "diffusion_gemma": GEMMA4,
    "gemma": GEMMA,
    "gemma3": GEMMA,
    "gemma4": GEMMA4,
    "gemma4_v2": GEMMA4,
    "gemma4_v3": GEMMA4,
    "gemma4_v4": GEMMA4,
    "gemma4_v5": GEMMA4,
    "glm4moe": Shape("<|user|>", "<|assistant|>"),
    "gptoss": Shape("<|return|>", "<|start|>assistant", lead="<|channel|>final<|message|>"),
    "idefics3": VISION,
    "lfm2": CHATML,
    "lfm2_2_5": CHATML,
    "lfm2_2_5_v2": CHATML,
    "lfm2_2_5_vl": CHATML,
    "lfm2_v2": CHATML,
    "llama3": LLAMA3,
    "llama3_1": LLAMA3,
    "llama3_2": LLAMA3,
    "llava_next": Shape("</s>", "[/INST]"),
    "muse_glimmer": Shape("<|eot|>", "<|start|>assistant", lead=" to=user<|message|>"),
    "nemotron_3_5_lightning": CHATML,
    "nemotron_3_nano": CHATML,
    "nemotron_3_super": CHATML,
    "nemotron_3_ultra": CHATML,
    "phi3": Shape("<|end|>", "<|assistant|>\n"),
    "phi3_5": Shape("<|end|>", "<|assistant|>\n"),
    "qwen2_5": CHATML,
    "qwen2_5_vl": CHATML,
    "qwen3": CHATML._replace(lead=NO_THOUGHT, early_lead=""),
    "qwen3_5_nothink": CHATML._replace(prompt=NO_THOUGHT, strips=True),
    "qwen3_5_think": THINKS,
    "qwen3_6": THINKS,
    "qwen3_8": THINKS,
    "qwen3_instruct_2507": CHATML,
    "qwen3_vl": CHATML,
    "smolvlm": VISION,
}

END = "[END]"  # stands for the template's end token


CONVERSATIONS = {
    "one turn": chat("What is it?", "A desk."),
    "system": [turn("system", "Be brief."), *chat("What is it?", "A desk.")],
    "empty system": [turn("system", ""), *chat("What is it?", "A desk.")],
    "three turns": chat("one?", "first", "two?", "second", "three?", "first"),
    "blanks": chat("Write code.", "  def f():\n    return 1\n\n"),
    "untrained between": [
        *chat("one?", "same", "two?"),
        turn("assistant", "same", trained=False),
        *chat("three?", "same"),
    ],
    "only the last": [
        turn("user", "one?"),
        turn("assistant", "same", trained=False),
        *chat("two?", "same"),
    ],
    "unicode": chat("Größe?", "数据 😀 é"),
    "answer in the prompt": chat("Is the user or assistant the model, final?", "assistant"),
    "answer in the marks": chat("think", "think"),
    "answer holds the end token": chat("one?", f"a{END}b"),
}
MANY = ("three turns", "untrained between")
SYSTEM = ("system", "empty system")

# The model would learn to stop in the middle of its answer.
ALWAYS_REFUSED = {"answer holds the end token": "has the end token"}

# template → conversations → the reason to refuse them
REFUSED = {
    # The generation prompt opens a thought, with which no answer of the template begins.
    **dict.fromkeys(
        [name for name in SHAPES if name.startswith(("deepseek", "nemotron"))],
        dict.fromkeys(CONVERSATIONS, "otherwise than its generation prompt"),
    ),
    # Its answers end with the next turn's beginning, so the last one does not end.
    "glm4moe": dict.fromkeys(CONVERSATIONS, "does not end the answer"),
    "gemma": dict.fromkeys(SYSTEM, "System role not supported"),
    # These want content as a list of texts and images, and write nothing of a plain text.
    **dict.fromkeys(
        ["idefics3", "smolvlm"],
        dict.fromkeys(CONVERSATIONS, "leaves out the answer")
        | {"empty system": "refuses the messages"},
    ),
    "llava_next": dict.fromkeys(CONVERSATIONS, "refuses the messages"),
    # An early answer ends with <|end|>, only the last one with <|return|>.
    "gptoss": dict.fromkeys(MANY, "rewrites the answer of message 2"),
    # An early answer loses the block of thought that its generation prompt has.
    **dict.fromkeys(
        ["qwen3_5_nothink", "qwen3_5_think", "qwen3_6"],
        dict.fromkeys(MANY, "rewrites the answer of message 2"),
    ),
}


class Difference(NamedTuple):
    """What TRL's training template trains besides the spans of ours, around each answer."""

    before: str = ""
    behind: str = ""
    early_before: str | None = None  # of an answer with turns behind it, if another
    last_behind: str | None = None  # of the last answer, if another


# Most train the newline behind the end token, which no model writes: it has stopped.
NEWLINE = Difference(behind="\n")
DIFFERENCES = {
    **dict.fromkeys(["cohere", "cohere2", "llama3"], Difference()),
    **dict.fromkeys(["diffusion_gemma", "gemma", "gemma3", "lfm2", "lfm2_v2"], NEWLINE),
    **dict.fromkeys(["lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"], NEWLINE),
    **dict.fromkeys(["qwen2_5_vl", "qwen3_instruct_2507", "qwen3_vl"], NEWLINE),
    # A second end token, which closes the whole conversation, is trained too.
    **dict.fromkeys(["phi3", "phi3_5"], Difference(behind="\n", last_behind="\n<|end|>")),
    # The newline of the header, part of the prompt, is trained too.
    "qwen2_5": Difference("\n", "\n"),
    # The whole block of thought is trained, also where the prompt has it or its beginning.
    **dict.fromkeys(["qwen3_5_think", "qwen3_6", "qwen3_8"], Difference("<think>\n", "\n")),
    "qwen3_5_nothink": Difference(NO_THOUGHT, "\n"),
    # TRL alters the template: early answers keep the block, which the model's own drops.
    "qwen3": Difference(behind="\n", early_before=NO_THOUGHT),
    # The header that tells who speaks, part of the prompt, is trained too.
    **dict.fromkeys(["gptoss", "muse_glimmer"], Difference("<|start|>assistant")),
}


@pytest.fixture(scope="session")
def folder():
    """Where TRL keeps the templates; it is found without importing TRL."""
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.origin:
        pytest.skip("trl, of the extra bench, is not installed")
    found = Path(spec.origin).parent / "chat_templates"
    if not found.is_dir():
        pytest.skip("this version of trl has no chat_templates")
    return found


@pytest.fixture(scope="session")
def load(folder, tiny_base):
    """Gives the tiny base's tokenizer as if it were that of the template's model."""
    loaded = {}

    def load(name):
        if name not in loaded:
            path = folder / f"{name}.jinja"
            if not path.is_file():
                pytest.skip(f"this version of trl has no template {name}")
            tokenizer = load_tokenizer(tiny_base)
            tokenizer.chat_template = path.read_text()
            shape = SHAPES[name]
            marks = SPECIAL.findall("".join(part for part in shape if isinstance(part, str)))
            tokenizer.add_special_tokens(
                {"eos_token": shape.end, "extra_special_tokens": sorted(set(marks))}
            )
            loaded[name] = tokenizer
        return loaded[name]

    return load


def conversation_of(shape, name):
    return [
        {**message, "content": message["content"].replace(END, shape.end)}
        for message in CONVERSATIONS[name]
    ]


def expected_runs(shape, messages):
    """What is to be trained, told from the table."""
    answers = []
    for at, message in enumerate(messages):
        if message["trained"]:
            is_early = at < len(messages) - 1 and shape.early_lead is not None
            lead = shape.early_lead if is_early else shape.lead
            answer = message["content"].strip() if shape.strips else message["content"]
            answers.append(lead + answer + shape.tail + shape.end)
    return answers


def test_every_template_of_trl_is_in_the_table(folder):
    names = {path.stem for path in folder.glob("*.jinja")}
    assert {name for name in names if not name.endswith("_training")} - set(SHAPES) == set()


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_answers_alone_are_trained_or_the_template_is_refused(load, name, conversation):
    tokenizer, shape = load(name), SHAPES[name]
    messages = conversation_of(shape, conversation)
    reason = REFUSED.get(name, {}).get(conversation, ALWAYS_REFUSED.get(conversation))
    if reason is not None:
        with pytest.raises(TemplateError, match=reason):
            tokens_of(tokenizer, messages)
        return
    ids, labels = tokens_of(tokenizer, messages)

    # The text is the template's, unchanged, and nothing of the row is lost in it.
    plain = [{"role": m["role"], "content": m["content"]} for m in messages]
    assert ids == tokenizer.apply_chat_template(plain, return_dict=True)["input_ids"]
    text = tokenizer.decode(ids)
    assert all(message["content"].strip() in text for message in messages)

    # A label is the token itself or ignored, and the runs of labels are the answers.
    found = trained(ids, labels)
    assert [tokenizer.decode(run) for _, run in found] == expected_runs(shape, messages)
    assert all(run[-1] == tokenizer.eos_token_id for _, run in found)

    # Each stands behind the header of its own turn.
    assistants = [message for message in messages if message["role"] == "assistant"]
    turns = [at for at, message in enumerate(assistants, start=1) if message["trained"]]
    for turn_number, (start, _) in zip(turns, found, strict=True):
        before = tokenizer.decode(ids[:start])
        assert before.endswith(shape.header + shape.prompt)
        assert before.count(shape.header) == turn_number


REASONED = "<think>\nIt has legs.\n</think>\n\nA desk."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", REASONED),
        ("lfm2_2_5", REASONED),
        # Their generation prompt opens the thought: the model goes on from there.
        ("qwen3_5_think", REASONED.removeprefix("<think>\n")),
        ("qwen3_6", REASONED.removeprefix("<think>\n")),
        ("nemotron_3_nano", REASONED.removeprefix("<think>\n")),
        ("nemotron_3_ultra", REASONED.removeprefix("<think>\n")),
    ],
)
def test_an_answer_with_its_reasoning_is_trained_whole(load, name, expected):
    tokenizer = load(name)
    ids, labels = tokens_of(tokenizer, chat("What is it?", REASONED))
    found = trained(ids, labels)
    assert [tokenizer.decode(run) for _, run in found] == [expected + SHAPES[name].end]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deepseek_r1_distill", "alters"),  # it cuts reasoning off
        ("deepseekv3", "alters"),
        ("glm4moe", "alters"),  # it writes the blanks around reasoning otherwise
        ("qwen3_5_nothink", "otherwise than its generation prompt"),
    ],
)
def test_reasoning_that_a_template_does_not_keep_is_refused(load, name, reason):
    with pytest.raises(TemplateError, match=reason):
        tokens_of(load(name), chat("What is it?", REASONED))


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "lfm2_2_5", "nemotron_3_nano"])
def test_reasoning_that_is_dropped_from_early_turns_is_refused(load, name):
    messages = chat("What is it?", REASONED, "And that?", REASONED)
    with pytest.raises(TemplateError, match="alters the answer of message 2") as caught:
        tokens_of(load(name), messages)
    assert "weight 0" in caught.value.hint


def calling(**arguments):
    """A turn that asks for the weather by a tool."""
    function = {"name": "weather", "arguments": arguments}
    calls = json.dumps([{"type": "function", "function": function}])
    return {**turn("assistant", ""), "tool_calls": calls}


HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
CODER = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nUlm\n</parameter>\n</function>\n"
    "</tool_call>"
)
LFM2 = "<|tool_call_start|>[weather(city='Ulm')]<|tool_call_end|>"
LLAMA = '{"name": "weather", "parameters": {"city": "Ulm"}}'
THOUGHT_ENDS = "\n</think>\n\n"


@pytest.mark.parametrize(
    ("name", "call", "answer"),
    [
        ("gemma4_v2", '<|tool_call>call:weather{city:<|"|>Ulm<|"|>}<tool_call|>', "Rain."),
        ("lfm2_2_5", LFM2, "Rain."),
        ("lfm2_v2", LFM2, "Rain."),
        ("llama3_1", LLAMA, "Rain."),
        ("llama3_2", LLAMA, "Rain."),
        ("qwen2_5", HERMES, "Rain."),
        ("qwen3", HERMES, NO_THOUGHT + "Rain."),
        ("qwen3_5_nothink", CODER, "Rain."),
        ("qwen3_5_think", THOUGHT_ENDS + CODER, THOUGHT_ENDS + "Rain."),
        ("qwen3_6", THOUGHT_ENDS + CODER, THOUGHT_ENDS + "Rain."),
        ("qwen3_8", THOUGHT_ENDS + CODER, THOUGHT_ENDS + "Rain."),
        ("qwen3_instruct_2507", HERMES, "Rain."),
        ("qwen3_vl", HERMES, "Rain."),
    ],
)
def test_a_call_is_trained_as_the_template_writes_it(load, name, call, answer):
    tokenizer, end = load(name), SHAPES[name].end
    asked = [turn("user", "Weather?"), calling(city="Ulm")]
    messages = [*asked, turn("tool", "rain"), turn("assistant", "Rain.")]
    ids, labels = tokens_of(tokenizer, messages)
    found = trained(ids, labels)
    assert [tokenizer.decode(run) for _, run in found] == [call + end, answer + end]


@pytest.mark.parametrize("name", SHAPES)
def test_a_call_is_never_trained_as_an_empty_answer(load, name):
    tokenizer, shape = load(name), SHAPES[name]
    messages = [turn("user", "Weather?"), calling(city="Ulm")]
    try:
        ids, labels = tokens_of(tokenizer, messages)
    except TemplateError:
        return
    ((_, run),) = trained(ids, labels)
    learned = tokenizer.decode(run)
    assert learned.endswith(shape.end)
    assert "weather" in learned
    assert "Ulm" in learned


@pytest.mark.parametrize("name", ["qwen2_5", "lfm2_2_5", "llama3_1"])
def test_a_call_that_holds_the_end_token_is_refused(load, name):
    messages = [turn("user", "Weather?"), calling(city=f"U{SHAPES[name].end}lm")]
    with pytest.raises(TemplateError, match="has the end token"):
        tokens_of(load(name), messages)


@pytest.mark.parametrize(
    ("name", "own_end"), [("gemma3", "<end_of_turn>"), ("gemma4", "<turn|>"), ("llama3", "eot_id")]
)
def test_an_end_token_that_the_template_does_not_write_is_refused(folder, tiny_base, name, own_end):
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = (folder / f"{name}.jinja").read_text()
    tokenizer.add_special_tokens({"eos_token": "<eos>"})  # as Gemma's tokenizers have it
    with pytest.raises(TemplateError, match=re.escape("end token '<eos>', but with")) as caught:
        tokens_of(tokenizer, chat("q", "a"))
    assert own_end in caught.value.message


def test_every_training_template_of_trl_is_compared(folder):
    marked = {
        path.stem.removesuffix("_training")
        for path in folder.glob("*.jinja")
        if re.search(r"{%-?\s*generation", path.read_text())
    }
    wholly_refused = {
        name for name, reasons in REFUSED.items() if len(reasons) == len(CONVERSATIONS)
    }
    assert marked - wholly_refused == set(DIFFERENCES)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_trl_trains_the_same_but_for_known_additions(load, folder, name):
    tokenizer, training = load(name), folder / f"{name}_training.jinja"
    template = training.read_text() if training.is_file() else tokenizer.chat_template
    unweighted = set(CONVERSATIONS) - {"untrained between", "only the last"}  # TRL has no weights
    for conversation in sorted(unweighted - set(REFUSED.get(name, {}))):
        messages = conversation_of(SHAPES[name], conversation)
        theirs = tokenizer.apply_chat_template(
            [{"role": m["role"], "content": m["content"]} for m in messages],
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        found = runs(theirs["input_ids"], theirs["assistant_masks"])
        expected = with_difference(expected_runs(SHAPES[name], messages), DIFFERENCES[name])
        if (name, conversation) == ("diffusion_gemma", "unicode"):
            # TRL's marks end behind the content there, and of a last character that is two
            # tokens, as é here, transformers then leaves the second out.
            expected = ["数据 😀 \ufffd", "<turn|>\n"]
        assert [tokenizer.decode(run) for _, run in found] == expected, conversation


def with_difference(answers, difference):
    """Our trained texts, each with what TRL trains besides."""
    before, behind, early_before, last_behind = difference
    changed = [(before if early_before is None else early_before) + a + behind for a in answers]
    changed[-1] = before + answers[-1] + (behind if last_behind is None else last_behind)
    return changed
