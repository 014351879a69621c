"""The table: a bad file, and what a person must be told of it to be able to mend it.

What is said is written as regular expressions without regard to case. The file's own name is
always asked for. Where a row is left out or altered, the ledger is asked for its number and why.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from tests.bad_data.made import BAD_NAME


class Fate(NamedTuple):
    """What the ledger must say of a row: its number, the rule, what it did, and of what."""

    row: int
    rule: str
    action: str
    detail: str


class Case(NamedTuple):
    """A file and what must be said.

    Attributes:
        file: Its name in `files`, or that of one that `made` makes.
        says: What the error, or the verdict's reasons, must say.
        refused: Whether the file is an error, else it is worked on.
        fates: What the ledger must say.
        answers: All that may be learned, as complete answers; nothing means that it is not asked.
        named: Which file must be named, where it is not this one.
        late: Whether the fault shows only when tokens are made, when rows are whole already.
        dataset: Settings of the dataset; paths are names of bad files.
        tokenization: Settings of the tokenization.
        model: The name of a model that is made.
    """

    file: str
    says: tuple[str, ...] = ()
    refused: bool = False
    fates: tuple[Fate, ...] = ()
    answers: tuple[str, ...] = ()
    named: str | None = None
    late: bool = False
    dataset: dict[str, Any] = {}  # noqa: RUF012
    tokenization: dict[str, Any] = {}  # noqa: RUF012
    model: str | None = None

    @property
    def id(self) -> str:
        settings = {
            **self.dataset,
            **self.tokenization,
            **({"model": self.model} if self.model else {}),
        }
        return ",".join([ascii(self.file)[1:-1][:40], *(f"{k}={v}" for k, v in settings.items())])


def refused(file: str, *says: str, **more: Any) -> Case:
    """A file from which nothing is learned."""
    return Case(file, says, refused=True, **more)


def doubtful(file: str, *says: str, **more: Any) -> Case:
    """A file that is worked on, and of which the verdict says something."""
    return Case(file, says, **more)


def works(file: str, *answers: str, **more: Any) -> Case:
    """A file of which nothing needs to be said, and all of which is learned."""
    return Case(file, answers=answers, **more)


def dropped(row: int, rule: str, detail: str) -> tuple[Fate, ...]:
    return (Fate(row, rule, "drop", detail),)


def flagged(row: int, rule: str, detail: str) -> tuple[Fate, ...]:
    return (Fate(row, rule, "flag", detail),)


def changed(row: int, rule: str, detail: str) -> tuple[Fate, ...]:
    return (Fate(row, rule, "change", detail),)


def at(number: int) -> str:
    """A place in a file: JSON lists have rows, other files may say lines."""
    return rf"\b(row|line) {number}\b"


CAPITALS = ("Paris, on the Seine.", "Oslo, on a fjord.", "Tokyo, on a bay.", "Lima, by the sea.")
NO_JSON = "not JSON"
NO_ROWS = "has no rows|is empty"
ONE_DROPPED = r"\b1 of 4 rows dropped \(1 by empty\)"
HELD_OUT = {"validation_path": "held_out.jsonl"}  # so that all rows of the file are learned
UTF8 = r"UTF-?8"

NOT_JSON = [
    refused("truncated.json", "after row 2|row 3", NO_JSON),
    refused("truncated_line.jsonl", at(4), NO_JSON),
    refused("trailing_comma.json", "after row 2|row 3", NO_JSON),
    refused("two_lists.json", "after row 2|row 3", "more follows"),
    refused("python_repr.jsonl", at(1), NO_JSON),
    refused("objects_run_on.jsonl", at(2), NO_JSON),
    refused("nested_arrays.json", at(1), "object", "list"),
    refused("strings.json", at(1), "object"),
    refused("null_row.jsonl", at(2), "object"),
    refused("top_level_object.json", "list of objects|may also be a list", NO_JSON),
    refused("top_level_object_in_a_line.json", "columns?.*data"),
    refused("list_in_lines.jsonl", at(1), r"\.json file .*list"),
    refused("list_in_a_line.jsonl", at(1), "object", "list"),
    works("lines_in_json.json", *CAPITALS),
    refused("nan_label.json", "after row 1|row 2", "NaN"),
    refused("infinity.jsonl", at(2), "Infinity"),
    refused("huge_float.jsonl", at(2), "1e999|inf|too (large|big)"),
    works("large_integer.jsonl", str(2**100), str(2**101)),
    refused("endless_integer.jsonl", at(2), "digits"),
    refused("duplicate_key.jsonl", at(2), "completion", "twice|duplicate|more than once"),
    refused("deep.jsonl", at(2), "nested|deep|recursion"),
    refused("deep.json", at(1) + "|first row", "nested|deep|recursion"),
    refused("deep_extra.jsonl", at(2), "nested|deep|recursion"),
    refused("deep_calls.jsonl", at(2), "nested|deep|recursion"),
    refused("long_broken_line.jsonl", at(2), NO_JSON),
    doubtful(
        "long_line.jsonl",
        r"1 of 6 rows dropped \(1 by too_long\)",
        dataset=HELD_OUT,
        fates=dropped(2, "too_long", r"[\d,]{7,} tokens, of 1,024"),
    ),
]

ENCODINGS = [
    refused("null_bytes.jsonl", at(2), "control character|NUL|null"),
    works("null_escapes.jsonl", *CAPITALS, fates=changed(2, "unicode", "broken text in 1 place")),
    works(
        "null_bytes.csv", "Paris.", "Oslo.", "Lima.",
        fates=changed(2, "unicode", "broken text in 1 place"),
    )
    if sys.version_info >= (3, 11)  # before, Python reads no such CSV
    else refused("null_bytes.csv", at(3), "NUL"),
    refused("only_nulls.jsonl", f"{NO_JSON}|not .*text|NUL"),
    works("utf16.jsonl", *CAPITALS),
    works("utf16.csv", *CAPITALS),
    refused("utf16_without_mark.jsonl", UTF8),
    refused("utf16_without_mark.csv", UTF8),
    refused("latin1.jsonl", at(3), UTF8),
    refused("latin1.csv", at(3), UTF8),
    refused("mark_in_the_middle.jsonl", at(3), "byte order mark|BOM"),
    works(
        "mojibake.jsonl", *CAPITALS, "Zürich, by the lake.",
        fates=changed(2, "unicode", "broken text in 1 place"),
    ),
    works(
        "lone_surrogate.jsonl", *CAPITALS, "Oslo \ufffd on a fjord.",
        fates=changed(2, "unicode", "broken text in 1 place"),
    ),
    refused("lone_surrogate.jsonl", at(2), "surrogate", dataset={"sanitize": {"unicode": "off"}}),
    refused("escape_in_column.jsonl", "question", "reply", "prompt, completion"),
    refused("surrogate_in_column.jsonl", "completion", "prompt, completion"),
]  # fmt: skip

TABLES = [
    # CSV knows no numbers: what stands there is text, and the row is learned as it is.
    works("nan_label.csv", "1", "nan", "0"),
    refused("stray_quote.csv", at(3), "quote|delimiter|expected"),
    refused("open_quote.csv", at(3), "quote|end of data"),
    refused("too_few_fields.csv", at(3), "2 fields"),
    refused("too_many_fields.csv", at(3), "2 fields"),
    refused("duplicate_header.csv", "completion", "twice|duplicate|more than once"),
    refused("only_header.csv", NO_ROWS),
    refused("header_is_data.csv", "capital of France", "columns|header", "prompt, completion"),
    refused("spaces_in_header.csv", "['\"] completion['\"]"),
    refused("many_columns.csv", "column_0", "prompt, completion"),
    works("semicolon.csv", *CAPITALS),
    works("tab.csv", *CAPITALS),
    works("mac_newlines.csv", *CAPITALS),
    refused("newline_in_field.csv", r"\bline 5\b|\brow 3\b", "2 fields"),
    doubtful(
        "long_field.csv",
        r"1 of 6 rows dropped \(1 by too_long\)",
        dataset=HELD_OUT,
        fates=dropped(2, "too_long", r"[\d,]{5,} tokens, of 1,024"),
    ),
    doubtful("nan_label.parquet", ONE_DROPPED, fates=dropped(2, "empty", "the answer is empty")),
    refused("infinity.parquet", at(2), "label", "inf"),
    refused("bytes.parquet", at(1), "prompt", "text", "bytes"),
    refused("no_rows.parquet", NO_ROWS),
    refused("not_parquet.parquet", "not Parquet"),
    refused("cut.parquet", "not Parquet|damaged|cannot be read"),
    refused("damaged.parquet", "not Parquet|damaged|cannot be read"),
]

COLUMNS = [
    refused("list_in_text.jsonl", at(2), "completion", "text", "list"),
    refused("object_in_text.jsonl", at(2), "prompt", "text", "dict|object"),
    works("mixed_types.jsonl", "4", "The legs of a cat.", "3.14", "Beijing."),
    works("zero_label.jsonl", "0", "1"),
    doubtful("null_answer.jsonl", ONE_DROPPED, fates=dropped(2, "empty", "answer is empty")),
    refused("no_objects_keys.jsonl", "columns", "prompt, completion"),
    refused("no_known_columns.jsonl", "title, body", "prompt, completion", "--input-field"),
    refused(
        "no_known_columns.jsonl", "missing column 'titel'", "title, body",
        dataset={"input_field": "titel", "output_field": "body"},
    ),
    works(
        "no_known_columns.jsonl", *CAPITALS,
        dataset={"input_field": "title", "output_field": "body"},
    ),
    refused("good.jsonl", "alpaca", "instruction, output", dataset={"format": "alpaca"}),
    refused("missing_field_later.jsonl", at(3), "completion"),
    refused("other_first_row.jsonl", at(2), "'text'"),
    works("extra_columns.jsonl", *CAPITALS),
    refused("alpaca_no_output.jsonl", "instruction, input", "instruction, output"),
    refused("no_rejected.jsonl", "prompt, chosen", "chosen, rejected"),
    refused("no_rejected_later.jsonl", at(2), "rejected"),
    refused("rejected_unknown_role.jsonl", at(2), "rejected", "message 1", "role"),
    doubtful(
        "chosen_is_rejected.jsonl", ONE_DROPPED, fates=dropped(2, "empty", "chosen .* rejected")
    ),
]  # fmt: skip

CHATS = [
    refused("answer_first.jsonl", at(2), "message 1", "nothing is asked", late=True),
    doubtful(
        "two_questions.jsonl", "1 rows? flagged by roles",
        fates=flagged(2, "roles", "messages 1 and 2 are both of the user"),
    ),
    doubtful(
        "late_system.jsonl", "1 rows? flagged by roles",
        fates=flagged(2, "roles", "message 2 is a system turn"),
    ),
    works("own_system.jsonl", *CAPITALS),
    works("own_system.jsonl", *CAPITALS, dataset={"system_prompt": "Be short."}),
    refused("unknown_role.jsonl", at(2), "message 2", "bot", "system, user, assistant, tool"),
    refused("missing_role.jsonl", at(2), "message 1", "role"),
    refused("message_is_text.jsonl", at(2), "message 1", "role|object"),
    refused("messages_are_text.jsonl", at(2), "messages", "list"),
    doubtful("no_messages.jsonl", ONE_DROPPED, fates=dropped(2, "empty", "no turn")),
    refused(
        "no_messages.jsonl", at(2), "no (messages|turn)|empty",
        dataset={"sanitize": {"empty": "off"}}, late=True,
    ),
    # All rows are dropped, and with them the ledger: the error is all that a person sees.
    refused("only_system.jsonl", "3 empty", at(1), "assistant|answer"),
    refused("only_user.jsonl", "4 empty", at(1), "assistant|answer"),
    refused("all_weights_zero.jsonl", "4 empty", at(1), "assistant|answer|weight"),
    refused("weight_as_text.jsonl", at(2), "message 2", "weight"),
    doubtful("empty_answer.jsonl", ONE_DROPPED, fates=dropped(2, "empty", "answer is empty")),
    doubtful("null_content.jsonl", ONE_DROPPED, fates=dropped(2, "empty", "answer is empty")),
    doubtful("null_question.jsonl", ONE_DROPPED, fates=dropped(2, "empty", "prompt is empty")),
    refused("no_content.jsonl", at(2), "message 2", "content"),
    refused("content_parts.jsonl", at(2), "message 1", "content", "text"),
    doubtful(
        "tool_without_call.jsonl", "1 rows? flagged by roles",
        fates=flagged(2, "roles", "message 2 is a tool's, but none was called"),
    ),
    refused("calls_not_json.jsonl", at(2), "message 2", "tool_calls", NO_JSON),
    refused("call_is_an_object.jsonl", at(2), "message 2", "tool_calls", "list"),
    refused("call_without_name.jsonl", at(2), "message 2", "tool_calls", "name"),
    refused("call_is_text.jsonl", at(2), "message 2", "tool_calls"),
    refused("no_call_in_list.jsonl", at(2), "message 2", "tool_calls"),
    works("tools.jsonl"),
    refused("tools_not_json.jsonl", at(2), "tools", NO_JSON),
    refused("tools_is_a_number.jsonl", at(2), "tools", "list"),
    refused("tools.jsonl", at(2), "no place for", "tools", late=True,
            tokenization={"template": "plain"}),
    refused("tools.jsonl", at(2), "no place for", "tools", late=True, model="model_without_tools"),
    doubtful(
        "tools.jsonl", r"1 of 6 rows dropped \(1 by template\)", dataset=HELD_OUT,
        fates=dropped(2, "template", "no place for the tools"),
        tokenization={"template": "plain", "refused": "drop"},
    ),
    refused("sharegpt_unknown_sender.jsonl", at(2), "turn 2", "from", "alien", "human"),
    refused("sharegpt_sender_is_a_list.jsonl", at(2), "turn 2", "from"),
    refused("sharegpt_no_value.jsonl", at(2), "turn 2", "value"),
    refused("sharegpt_call_is_a_number.jsonl", at(2), "turn 2", "function_call"),
    # What stands in a prompt is read, whatever it looks like.
    works("special_tokens_in_prompt.jsonl", *CAPITALS, dataset=HELD_OUT),
    # An answer that goes on behind its end is never read on; one that brings its end has two.
    refused("end_token_in_answer.jsonl", at(2), "message 2|answer", r"<\|end\|>", late=True),
    refused("turn_in_answer.jsonl", at(2), "message 2|answer", r"<\|end\|>", late=True),
    refused("end_token_at_the_end.jsonl", r"row \d", "message 2|answer", r"<\|end\|>", late=True),
]  # fmt: skip

AMONG_ROWS = [
    refused("all_empty.jsonl", "4 empty", "0 to learn from"),
    refused("one_row.jsonl", "1 to learn from, 0 held out", "at least one row to learn from"),
    refused("all_duplicates.jsonl", "3 duplicate", "1 to learn from, 0 held out"),
    refused(
        "good.jsonl", "none of the .* rows", r"row \d", r"\d+ tokens, of 16", "max_length",
        tokenization={"max_length": 16}, late=True,
    ),
    doubtful(
        "conflict.jsonl", "1 rows? flagged by conflict",
        fates=flagged(5, "conflict", "the same input as row 2"),
    ),
    doubtful(
        "leak.jsonl", r"1 of 7 rows dropped \(1 by leak\)", dataset=HELD_OUT,
        fates=dropped(5, "leak", "row 1 of the validation file"),
    ),
    refused("good.jsonl", "4 leak", "0 to learn from", dataset={"validation_path": "good.jsonl"}),
    doubtful("secrets.jsonl", "1 rows? flagged by secret",
             fates=flagged(2, "secret", "1 of kind secret")),
    doubtful("one_label.jsonl", "all [78] rows .* same label"),
    doubtful("label_imbalance.jsonl", "of 2 labels, .* 2[23] rows, .* in 1"),
    refused("good.jsonl", at(4), NO_JSON, named="truncated_line.jsonl",
            dataset={"validation_path": "truncated_line.jsonl"}),
    refused("good.jsonl", "title, body", named="no_known_columns.jsonl",
            dataset={"validation_path": "no_known_columns.jsonl"}),
    refused("good.jsonl", at(2), "message 1", named="answer_first.jsonl", late=True,
            dataset={"validation_path": "answer_first.jsonl"}),
    refused("good.jsonl", "4 empty", "validation", named="all_empty.jsonl",
            dataset={"validation_path": "all_empty.jsonl"}),
    # Otherwise the held-out rows would silently stand for those that were to be measured on.
    refused("sixty.jsonl", "4 empty", "evaluat", named="all_empty.jsonl",
            dataset={"evaluation_path": "all_empty.jsonl"}),
]  # fmt: skip

PLACES = [
    refused("wrong_ending.txt", r"\.txt", r"\.jsonl"),
    refused("no_ending", "ending", r"\.jsonl"),
    *(refused(f"{kind}.{ending}", NO_ROWS)
      for kind in ("empty", "blank") for ending in ("json", "jsonl", "csv")),
    refused("nowhere.jsonl", "no dataset file"),
    refused("x" * 300 + ".jsonl", "name|no dataset file"),
    refused("folder.jsonl", "no dataset file|no .*file"),
    refused("empty_folder", "no dataset file|no .*file"),
    refused("notes_only", "no dataset file|no .*file", "JSONL"),
    refused("second_file_is_bad", r"b\.jsonl, (row|line) 2\b", "completion"),
    refused("link_out", r"passwords\.jsonl", "link", "out of the folder"),
    refused("dangling_link", r"b\.jsonl", "link"),
    refused("loop.jsonl", "no dataset file|link"),
    refused("pipe.jsonl", "no dataset file|no file|pipe"),
    refused("unreadable.jsonl", "cannot be read|may not be read|permission"),
    refused("closed/rows.jsonl", "cannot be read|may not be read|permission"),
    refused("not_gzip.jsonl.gz", "cannot be read", "gzip"),
    refused("cut.jsonl.gz", "cannot be read", "end"),
    refused("damaged.jsonl.gz", "cannot be read|damaged"),
    refused("wrong_checksum.jsonl.gz", "cannot be read", "CRC"),
    refused("not_zstd.jsonl.zst", "cannot be read", "zstd"),
    refused("cut.jsonl.zst", "cannot be read", "truncated|end"),
    *(refused(name, "more than 1 MiB", "dataset.max_unpacked_mb", dataset={"max_unpacked_mb": 1})
      for name in ("bomb.jsonl.gz", "bomb.json.gz", "bomb.csv.zst")),
]  # fmt: skip

CASES = [
    *NOT_JSON, *ENCODINGS, *TABLES, *COLUMNS, *CHATS, *AMONG_ROWS, *PLACES,
]  # fmt: skip

# Of these the command itself is asked: each costs seconds.
COMMANDS = [
    next(case for case in CASES if case.file == file)
    for file in (
        "truncated_line.jsonl",
        "nan_label.json",
        "latin1.csv",
        "escape_in_column.jsonl",
        "surrogate_in_column.jsonl",
        "sharegpt_sender_is_a_list.jsonl",
        "all_empty.jsonl",
        "nowhere.jsonl",
        "damaged.jsonl.gz",
        "not_parquet.parquet",
        "answer_first.jsonl",
        "null_content.jsonl",
        "conflict.jsonl",
    )
]
# A config is what refuses a name that is no text.
COMMANDS.append(refused(BAD_NAME, r"dataset\.path", named=ascii(BAD_NAME)[1:-1]))
