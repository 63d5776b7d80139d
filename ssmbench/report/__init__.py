"""Tables from the results: pure functions of what the store holds.

Each file here without an underscore is one group of tables: `TITLE`, `ORDER` and
`build(tables) -> list[Table]`, where `tables` are the frames of `ssmbench.store.read.tables`.
"""
