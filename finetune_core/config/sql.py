"""The section of the databases that a text-to-SQL model writes its queries for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from finetune_core.config.defaults import setting
from finetune_core.config.section import Section

DIALECTS = ("sqlite", "postgresql")
SECRET = "secret"  # noqa: S105 - the kind of a fault whose value is not shown


def _url(value: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(value)
    except ArgumentError:
        raise PydanticCustomError(
            SECRET, "is no database's URL; it reads postgresql://user@host/name or sqlite:///file"
        ) from None
    if url.password is not None or any("password" in key for key in url.query):
        raise PydanticCustomError(
            SECRET,
            "holds a password, which would be kept with the job; leave it out and set PGPASSWORD, "
            "or write it to ~/.pgpass",
        )
    if url.get_backend_name() not in DIALECTS:
        known = " and ".join(DIALECTS)
        raise ValueError(f"only {known} can be opened in a way that nothing can be written")
    if url.get_backend_name() == "sqlite" and not url.database:
        raise ValueError("should name the database's file: sqlite:///file")
    return value


def _dialect(value: str) -> str:
    from sqlglot import Dialect

    name = "postgres" if value.lower() == "postgresql" else value.lower()
    try:
        Dialect.get_or_raise(name)
    except ValueError as error:
        raise ValueError(f"is no dialect of sqlglot's: {error}") from None
    return name


DatabaseUrl = Annotated[str, StringConstraints(min_length=1), AfterValidator(_url)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class DatabaseConfig(Section):
    """A database: one that can be asked, what is known of its columns, or both."""

    url: DatabaseUrl | None = None
    """sqlite:///file or postgresql://user@host/name, without a password: that is read from
    PGPASSWORD or ~/.pgpass."""

    name: Text | None = None
    """What questions call it; without it, what its URL or its metadata's file is called."""

    metadata: Text | None = None
    """A JSON file that says what the columns mean; without a URL, also which there are."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> DatabaseConfig:
        if self.url is None and self.metadata is None:
            raise ValueError("needs a url, or a metadata file")
        return self

    @property
    def title(self) -> str:
        """What questions call it."""
        if self.name:
            return self.name
        if self.url is None:
            return Path(str(self.metadata)).stem
        from sqlalchemy.engine import make_url

        url = make_url(self.url)
        database = url.database or url.username or ""
        return Path(database).stem if url.get_backend_name() == "sqlite" else database

    def anchored(self) -> DatabaseConfig:
        """The same with paths that mean the same from everywhere."""
        from sqlalchemy.engine import make_url

        changed: dict[str, str] = {}
        if self.metadata:
            changed["metadata"] = str(_absolute(self.metadata))
        url = make_url(self.url) if self.url else None
        if url is not None and url.get_backend_name() == "sqlite":
            file = str(_absolute(str(url.database)))
            changed["url"] = url.set(database=file).render_as_string()
        return self.model_copy(update=changed)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


class SqlConfig(Section):
    """The databases that a text-to-SQL model writes its queries for; without any, it is none."""

    databases: list[DatabaseConfig] = Field(default_factory=list)
    """The databases. They are only read."""

    serializer: Literal["auto", "create_table", "compact", "markdown"] = setting("sql.serializer")
    """How a prompt shows the schema: as CREATE TABLE statements, as short lines, or as Markdown
    tables; auto is what fits the base model's family and the length of its rows."""

    dialect: Annotated[str, StringConstraints(min_length=1), AfterValidator(_dialect)] | None = None
    """The dialect of the gold SQL, as sqlglot names it; without it, each database's own."""

    schema_tokens: int | None = setting("sql.schema_tokens")
    """The tokens that a schema may have in a prompt; without it, as many as a row has room for."""

    sample_rows: int = setting("sql.sample_rows")
    """The rows of each table that a prompt shows."""

    categories: int = setting("sql.categories")
    """Columns of text with so many distinct values, or fewer, are shown with them."""

    mask_personal_data: bool = setting("sql.mask_personal_data")
    """Whether e-mail addresses, phone numbers, bank accounts and the like are masked in what is
    shown of the rows."""

    seconds: float = setting("sql.seconds")
    """The seconds that a query may take."""

    max_rows: int = setting("sql.max_rows")
    """The rows that a query may give."""

    golds: Path | None = None
    """What the queries of the rows that are measured are compared with; `text-to-sql` writes it.
    Without it, that is the expected answer, asked of the one database."""

    @property
    def executes(self) -> bool:
        """Whether there are databases, and all of them can be asked."""
        return bool(self.databases) and all(each.url for each in self.databases)

    def anchored(self) -> SqlConfig:
        """The same with paths that mean the same from everywhere."""
        return self.model_copy(update={"databases": [each.anchored() for each in self.databases]})

    @model_validator(mode="after")
    def _names_once(self) -> SqlConfig:
        names = [each.title for each in self.databases]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(f"two databases are called {twice[0]}; give one a name")
        return self
