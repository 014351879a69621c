"""CREATE TABLE statements with comments and sample rows, as GPT-like models have read many."""

from __future__ import annotations

from finetune_core.text_to_sql.schema import Column, Table


class CreateTable:
    """A statement a table (Rajkumar et al. 2022, arXiv 2204.00498)."""

    name = "create_table"
    between = "\n\n"

    def table(self, table: Table) -> str:
        """The statement, then its rows in a comment."""
        head = [f"-- {table.description}"] if table.description else []
        lines = [_column(column) for column in table.columns]
        keys = [column.name for column in table.columns if column.primary_key]
        if keys:
            lines.append((f"  PRIMARY KEY ({', '.join(keys)})", ""))
        for column in table.columns:
            if column.references:
                owner, _, referred = column.references.rpartition(".")
                lines.append((f"  FOREIGN KEY ({column.name}) REFERENCES {owner} ({referred})", ""))
        last = len(lines) - 1
        body = [
            f"{text}{',' if place < last else ''}{comment}"
            for place, (text, comment) in enumerate(lines)
        ]
        rows = [f"-- {', '.join(row)}" for row in table.rows]
        sample = ["-- rows:", *rows] if rows else []
        return "\n".join([*head, f"CREATE TABLE {table.name} (", *body, ");", *sample])


def _column(column: Column) -> tuple[str, str]:
    """A column's line, and the comment behind its comma."""
    told = [column.description] if column.description else []
    if column.values:
        told.append(f"one of: {', '.join(column.values)}")
    comment = f"  -- {'; '.join(told)}" if told else ""
    return f"  {column.name} {column.type}", comment
