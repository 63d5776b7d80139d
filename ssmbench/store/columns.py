"""The tables of a run folder: every column with its type, its unit and one sentence.

Columns are only ever added, and an added one is nullable: older files are then read with
nulls in it (`missing_columns="insert"`), newer ones without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Column:
    """One column; `nullable` says whether a row may lack it."""

    name: str
    dtype: pl.DataType
    text: str
    nullable: bool = True


_TEXT, _INT, _REAL, _BOOL = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()
_BACKEND = "Whose kernels computed: `torch`, `ssd: mamba_ssm, causal_conv: torch`, …"
_COMPUTED = "What projections ran in: `float32` also for half `dtype`s without units for them."


def _ids(*, suite: bool = True) -> tuple[Column, ...]:
    cell = Column("cell_id", _TEXT, "The cell; joins the tables.", nullable=False)
    if not suite:
        return (cell,)
    return (
        cell,
        Column("suite_id", _TEXT, "The suite with all its parameters, hashed.", nullable=False),
        Column("suite", _TEXT, "The suite's name.", nullable=False),
    )


CELLS = (
    *_ids(suite=False),
    Column("model", _TEXT, "The model's name in the grid.", nullable=False),
    Column("family", _TEXT, "The model's family; null where only its files tell."),
    Column("method", _TEXT, "The methods in order, joined by `+`.", nullable=False),
    Column("params", _TEXT, "JSON: the steps with every parameter filled in.", nullable=False),
    Column("ratio", _REAL, "The fraction asked to be removed, in [0, 1).", nullable=False),
    Column("fine_tune", _TEXT, "How it was trained after compression; `none`.", nullable=False),
    Column("seed", _INT, "The cell's seed.", nullable=False),
    Column("dtype", _TEXT, "The number format of the weights.", nullable=False),
    Column("calibration", _TEXT, "JSON: the text that the method looked at, or null."),
    Column("identity_version", _INT, "The version of the hash in `cell_id`.", nullable=False),
    Column("status", _TEXT, "`done`, `failed` or `to do`.", nullable=False),
    Column("reason", _TEXT, "Why it is not done, or null."),
    Column("params_model", _INT, "Weights stored in the whole model."),
    Column("params_mixer", _INT, "Weights stored in the mixers."),
    Column("params_model_dense", _INT, "Weights of the uncompressed model."),
    Column("params_mixer_dense", _INT, "Weights of the uncompressed model's mixers."),
    Column("nonzero_mixer", _INT, "Weights of the mixers that are not zero."),
    Column("compression_mixer", _REAL, "Fraction of the mixers' stored weights that is gone."),
    Column("compression_model", _REAL, "Fraction of the model's stored weights that is gone."),
    Column("ratio_achieved", _REAL, "Zeros or removed units, of those the last method targets."),
    Column("state_bytes", _INT, "Recurrent state of one sequence, bytes."),
    Column("state_bytes_dense", _INT, "The same for the uncompressed model, bytes."),
    Column("flops_per_token", _REAL, "FLOPs of a prompt of 512 tokens, divided by these."),
    Column("flops_per_token_dense", _REAL, "The same for the uncompressed model."),
    Column("fingerprint", _TEXT, "What stands for the weights: hub revision or file hash."),
    Column("fine_tune_params", _TEXT, "JSON: the parameters of the training."),
    Column("label", _TEXT, "A short name for people."),
    Column("compression_paper_percent", _INT, "Comp. of arXiv:2502.18886: 100 − ⌊100 · kept⌋, %."),
    Column("model_source", _TEXT, "Where the weights are: `zoo:NAME`, `folder:PATH` or `hub:ID`."),
)

METRICS = (
    *_ids(),
    Column("task", _TEXT, "The task, or the data set.", nullable=False),
    Column("metric", _TEXT, "What was computed: `acc`, `word_perplexity`, …", nullable=False),
    Column("value", _REAL, "The score; accuracies are 0–1. Null if it could not be had."),
    Column("stderr", _REAL, "Standard error of the score over documents."),
    Column("n", _INT, "Documents or windows scored."),
    Column("limit", _INT, "Only the first so many documents were scored; null = all."),
    Column("higher_is_better", _BOOL, "The direction of the metric."),
    Column("reason", _TEXT, "Why `value` is null."),
    Column("chance", _REAL, "What guessing would score, where known."),
    Column("best", _REAL, "The best possible score, where known."),
    Column("backend", _TEXT, _BACKEND),
    Column("compute_dtype", _TEXT, _COMPUTED),
)

SAMPLES = (
    *_ids(),
    Column("task", _TEXT, "The task, or the data set.", nullable=False),
    Column("doc_id", _TEXT, "The document within the task.", nullable=False),
    Column("metric", _TEXT, "`acc`: 0 or 1; `nll`: total nats of the document.", nullable=False),
    Column("value", _REAL, "The document's value.", nullable=False),
    Column("weight", _REAL, "1 for accuracies; tokens, words or bytes for `nll`.", nullable=False),
)

LATENCY = (
    *_ids(),
    Column("device", _TEXT, "The device's name.", nullable=False),
    Column("phase", _TEXT, "`prefill` or `decode`.", nullable=False),
    Column("batch", _INT, "Sequences at once.", nullable=False),
    Column("length", _INT, "Tokens of each sequence.", nullable=False),
    Column("median_s", _REAL, "Median of the repeats, seconds."),
    Column("dense_median_s", _REAL, "The uncompressed model's, taken in turns with it, seconds."),
    Column("speedup", _REAL, "`dense_median_s / median_s`."),
    Column("p10_s", _REAL, "Tenth percentile of the repeats, seconds."),
    Column("p90_s", _REAL, "Ninetieth percentile of the repeats, seconds."),
    Column("n", _INT, "Repeats."),
    Column("tokens_per_s", _REAL, "Tokens processed or generated per second at the median."),
    Column(
        "peak_memory_bytes",
        _INT,
        "The most memory held at a time, weights included: on a GPU by the allocator, on a CPU the"
        " weights and how much the process grew. Null where not told.",
    ),
    Column("raw_s", pl.List(pl.Float64()), "Every repeat, seconds."),
    Column("dense_raw_s", pl.List(pl.Float64()), "Every repeat of the uncompressed model."),
    Column("reason", _TEXT, "Which columns of the row are null, and why; null if none is."),
    Column("p99_s", _REAL, "The 99th percentile, seconds; null of fewer than 100 repeats."),
    Column(
        "first_token_s",
        _REAL,
        "Of a prefill, the median by the wall clock from prompts on the host to their next tokens"
        " there, seconds; null of decoding.",
    ),
    Column("timer", _TEXT, "What `raw_s` is told by: `cuda_events` or the `wall` clock."),
    Column(
        "wall_raw_s",
        pl.List(pl.Float64()),
        "Every repeat by the wall clock, host to host; null where `raw_s` is that already.",
    ),
    Column("first_call_s", _REAL, "The first call: kernels are chosen and compiled, seconds."),
    Column("warmup_s", _REAL, "All calls before the timed ones, the first included, seconds."),
    Column("dense_warmup_s", _REAL, "The same of the uncompressed model."),
    Column("weights_bytes", _INT, "Weights, as they are held in memory: part of the peak."),
    Column("dense_peak_memory_bytes", _INT, "The uncompressed model's peak, with its weights."),
    Column("state_bytes", _INT, "What the whole batch carries along after its prompts, bytes."),
    Column(
        "floor_s",
        _REAL,
        "Median time of the compressed model's projections alone, as matrix products of the same"
        " shapes in turns with it, seconds: `floor_s / median_s` of the limit is reached.",
    ),
    Column("floor_raw_s", pl.List(pl.Float64()), "Every repeat of the floor."),
    Column(
        "publishable",
        _BOOL,
        "Whether the device was otherwise idle; null if it does not tell who used it.",
    ),
    Column("n_semi_structured", _INT, "Projections that ran as 2:4 products; null if not asked."),
    Column("disturbance", _TEXT, "Who else used the device meanwhile; null if nobody is known."),
    Column("clock_mhz", _REAL, "The device's clock meanwhile, median; null where not told."),
    Column("power_w", _REAL, "Its power, median; null where not told."),
    Column("temperature_c", _REAL, "Its highest temperature, °C; null where not told."),
    Column("backend", _TEXT, _BACKEND),
    Column(
        "graph",
        _TEXT,
        "How decoding steps ran: `captured`, both models' and the floor as CUDA graphs, or"
        " `plain: ` and why; null of prefill.",
    ),
    Column("capture_s", _REAL, "Capturing a step as a graph, its warm-up included, seconds."),
    Column("compute_dtype", _TEXT, _COMPUTED),
)

LAYERS = (
    *_ids(),
    Column("layer", _INT, "The layer, from 0.", nullable=False),
    Column("measure", _TEXT, "`cosine`, `influence`, `kept_position`, …", nullable=False),
    Column("place", _TEXT, "Where in the layer or the text, or in which task; null for all."),
    Column("value", _REAL, "The mean. Null if it could not be had."),
    Column("n", _INT, "What the mean is over: texts, prompts or tokens.", nullable=False),
    Column("reason", _TEXT, "Why `value` is null."),
    Column("backend", _TEXT, _BACKEND),
    Column("compute_dtype", _TEXT, _COMPUTED),
)

TRAINING = (
    *_ids(),
    Column("step", _INT, "Optimiser steps done, from 1.", nullable=False),
    Column("loss", _REAL, "Nats per token: the mean since the row before.", nullable=False),
    Column("dense_loss", _REAL, "Its part without dropping tokens; null where it is one loss."),
    Column("sparse_loss", _REAL, "Its part with tokens dropped; likewise."),
    Column("learning_rate", _REAL, "Of this step."),
    Column("gradient_norm", _REAL, "Of this step, over all trained weights, before clipping."),
    Column("tokens", _INT, "Tokens trained on so far.", nullable=False),
    Column("seconds", _REAL, "Time of the training so far, that of killed attempts included."),
)

ATTEMPTS = (
    Column("attempt_id", _TEXT, "One execution of one cell.", nullable=False),
    Column("cell_id", _TEXT, "Its cell.", nullable=False),
    Column("number", _INT, "1 for the cell's first try, then 2, …"),
    Column("status", _TEXT, "`done` or `failed`.", nullable=False),
    Column("error_class", _TEXT, "`gpu_oom`, `numerical`, …; null if done."),
    Column("message", _TEXT, "What went wrong, for people."),
    Column("host", _TEXT, "The machine's name."),
    Column("device", _TEXT, "The device's name."),
    Column("started_s", _REAL, "Start, Unix time in seconds."),
    Column("ended_s", _REAL, "End, Unix time in seconds."),
    Column("log", _TEXT, "The log, relative to the run folder."),
    Column("git_commit", _TEXT, "The program's commit, where it ran from a checkout."),
    Column("git_dirty", _BOOL, "Whether that checkout had changes."),
    Column("versions", _TEXT, "JSON: versions of Python and the libraries."),
    Column("seeds", _TEXT, "JSON: every seed that was set."),
    Column("suites", _TEXT, "JSON: ids of the suites that it was to run."),
    Column("peak_memory_bytes", _INT, "The process's largest resident memory, bytes."),
    Column("peak_gpu_memory_bytes", _INT, "The largest GPU memory allocated, bytes."),
    Column("backend", _TEXT, "As in `metrics`, of the whole attempt, compression included."),
    Column("compute_dtype", _TEXT, _COMPUTED),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "cells": CELLS,
    "metrics": METRICS,
    "samples": SAMPLES,
    "latency": LATENCY,
    "layers": LAYERS,
    "training": TRAINING,
    "attempts": ATTEMPTS,
}

# Rows that a suite hands over; the rest is derived from the ledger.
SUITE_TABLES = ("metrics", "samples", "latency", "layers", "training")

_ABOUT = {
    "cells": "One row per cell: what it is, where it stands and what it weighs.",
    "metrics": "One row per cell, suite, task and metric.",
    "samples": "One row per document: what paired comparisons are made of.",
    "latency": "One row per cell and timing point.",
    "layers": "One row per cell, suite, layer, measure and place: what happens inside the model.",
    "training": "One row per fine-tuned cell and point of its loss curve.",
    "attempts": "One row per execution, failed ones included.",
}


def schema(table: str) -> pl.Schema:
    """Give the polars schema of a table, columns in order."""
    return pl.Schema({c.name: c.dtype for c in TABLES[table]})


def markdown() -> str:
    """Describe every table and column, for docs/results.md."""
    parts = []
    for table, columns in TABLES.items():
        lines = [f"### `{table}`", "", _ABOUT[table], "", "| column | type | |", "|---|---|---|"]
        for c in columns:
            null = "" if c.nullable else ", never null"
            lines.append(f"| `{c.name}` | {c.dtype}{null} | {c.text} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


_BEGIN, _END = "<!-- columns -->\n", "<!-- /columns -->\n"


def fill_in(page: str) -> str:
    """Put the present description of the tables between the marks of a Markdown page."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{markdown()}\n{_END}{after}"
