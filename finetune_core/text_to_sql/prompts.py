"""What a model is asked: the schema, then the question."""

from __future__ import annotations

from finetune_core.text_to_sql.schema import Schema

DIALECTS = {"sqlite": "SQLite", "postgres": "PostgreSQL"}

Messages = list[dict[str, str]]


def messages(
    schema: Schema, text: str, question: str, sql: str, instructions: str = ""
) -> Messages:
    """A row of the dataset, in the chat format.

    Args:
        schema: Of the database.
        text: The schema as the prompt shows it.
        question: What is asked.
        sql: The answer.
        instructions: What else is to be kept to, of this question.
    """
    dialect = DIALECTS.get(schema.dialect, schema.dialect)
    parts = [f"Answer with one {dialect} query for this database.", text]
    parts += [part for part in (schema.notes, instructions) if part]
    return [
        {"role": "system", "content": "\n\n".join(parts)},
        {"role": "user", "content": question},
        {"role": "assistant", "content": sql},
    ]
