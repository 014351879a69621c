"""Markdown tables: a section a table, a line a column."""

from __future__ import annotations

from finetune_core.text_to_sql.schema import Column, Table


class Markdown:
    """A heading, the columns, and the sample rows."""

    name = "markdown"
    between = "\n\n"

    def table(self, table: Table) -> str:
        """The section."""
        columns = [
            _line([column.name, column.type, _key(column), _meaning(column)])
            for column in table.columns
        ]
        parts = [f"## {table.name}"]
        if table.description:
            parts.append(table.description)
        parts.append("\n".join([*_head("column", "type", "key", "meaning"), *columns]))
        if table.rows:
            names = [column.name for column in table.columns]
            parts.append("\n".join([*_head(*names), *map(_line, table.rows)]))
        return "\n\n".join(parts)


def _key(column: Column) -> str:
    keys = ["primary"] if column.primary_key else []
    return ", ".join([*keys, column.references] if column.references else keys)


def _meaning(column: Column) -> str:
    told = [column.description] if column.description else []
    return "; ".join([*told, f"one of: {', '.join(column.values)}"] if column.values else told)


def _head(*names: str) -> list[str]:
    return [_line(list(names)), _line(["---"] * len(names))]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
