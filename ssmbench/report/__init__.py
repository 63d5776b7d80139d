"""Tables from the results: pure functions of what the store holds.

Each file here without an underscore is one group of tables: `TITLE`, `ORDER` and
`build(results) -> list[Table | Figure]`; `_results.py` says what `results` holds.
"""
