"""A line a table: for models with little room."""

from __future__ import annotations

from finetune_core.text_to_sql.schema import Column, Table

FEW_VALUES = 8  # that are shown of a column


class Compact:
    """`table(column type, column type -> other.column)`; a key has a star."""

    name = "compact"
    between = "\n"

    def table(self, table: Table) -> str:
        """The line."""
        return f"{table.name}({', '.join(map(_column, table.columns))})"


def _column(column: Column) -> str:
    star = "*" if column.primary_key else ""
    reference = f" -> {column.references}" if column.references else ""
    few = 0 < len(column.values) <= FEW_VALUES
    values = f" [{'|'.join(column.values)}]" if few else ""
    return f"{column.name}{star} {column.type.lower()}{values}{reference}"
