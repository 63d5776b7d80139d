"""SQL over the tables of a run folder, by polars."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from ssmbench.errors import CommandError, suggest
from ssmbench.store.columns import TABLES
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from ssmbench.store.folder import RunFolder

_COLUMN = re.compile(r"unable to find column \"([^\"]+)\"|no column named '([^']+)'")
_TABLE = re.compile(r"relation '([^']+)' was not found")
_WORD = re.compile(r"\w+")


def query(folder: RunFolder, sql: str) -> pl.DataFrame:
    """Run one SELECT over the tables of a run (store/columns.py).

    Args:
        folder: the run folder; only committed results are seen.
        sql: one statement in polars' dialect (close to PostgreSQL's).

    Raises:
        CommandError: the statement cannot be run; the message says what is unknown.
        StoreError: the run folder is damaged.
    """
    frames = tables(folder)
    try:
        with pl.SQLContext(frames) as context:
            return context.execute(sql, eager=True)
    except pl.exceptions.PolarsError as problem:
        raise CommandError(f"sql: {_explain(str(problem), sql)}") from None


def _explain(message: str, sql: str) -> str:
    column, table = _COLUMN.search(message), _TABLE.search(message)
    if table:
        return f"there is no table '{table[1]}'.{suggest(table[1], TABLES)}"
    if column:
        name = column[1] or column[2]
        mentioned = set(_WORD.findall(sql.lower())) & set(TABLES)
        names = {c.name for table in mentioned or TABLES for c in TABLES[table]}
        where = " or ".join(f"'{t}'" for t in sorted(mentioned))
        return f"there is no column '{name}' in {where or 'any table'}.{suggest(name, names)}"
    return message.strip().splitlines()[0].removeprefix("sql parser error: ")
