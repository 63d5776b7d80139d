"""Times: how long a pass or a step takes as texts get longer, never without its quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report._figure import Figure
from ssmbench.report._format import seconds as time_of
from ssmbench.report._lines import Chart, Dot, Line, Plot, looks
from ssmbench.report._points import by_model, data_table, file_name, fill, warnings
from ssmbench.report._style import DENSE_STYLE
from ssmbench.report._timed import all_timed, bought, disturbed, records, told, value_of
from ssmbench.report.quality import mean_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import ByModel
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score
    from ssmbench.report._timed import Timed

TITLE = "Times"
ORDER = 80

_LENGTH = "Time against length"


def build(results: Results) -> list[Figure]:
    """Build a figure for each model, device, phase and batch that was timed at several lengths.

    Args:
        results: the run's.
    """
    timed = all_timed(results)
    panel, quality = mean_scores(results, results.rows) if timed else (None, {})
    made = []
    for group in by_model(dict.fromkeys(t.facts for t in timed)):
        own = [t for t in timed if t.facts.model == group.model]
        made += _against_length(group, own, panel, quality)
    if made:
        return made
    why = "Every model was timed at one length alone" if timed else "Suite latency was not run"
    return [
        Figure(
            _LENGTH, "times-length", "", reason=fill(results, why, toy="quickstart", real="full")
        )
    ]


def _against_length(
    group: ByModel, timed: Sequence[Timed], panel: Panel | None, quality: Mapping[int, Score]
) -> list[Figure]:
    made = []
    for place, batch in dict.fromkeys((t.place, t.batch) for t in timed):
        own = [t for t in timed if (t.place, t.batch) == (place, batch)]
        if len({t.length for t in own}) > 1:
            made.append(_length_figure(group, own, panel, quality, place, batch))
    return made


def _length_figure(
    group: ByModel,
    timed: Sequence[Timed],
    panel: Panel | None,
    quality: Mapping[int, Score],
    place: str,
    batch: int,
) -> Figure:
    rows = list(dict.fromkeys(t.facts for t in timed))
    names = dict.fromkeys(f.variant for f in rows if not f.is_plain_dense)
    chart = Chart(
        [_plot(name, timed, quality) for name in names or [rows[0].variant]],
        x="tokens",
        y="time",
        x_scale="log",
        y_scale="log",
        share="xy",
        x_ticks=sorted({t.length for t in timed}),
        y_text=_tick,
        columns=4,
        each=2.0,
        dodge=True,
    )
    name = file_name("times-length", group.model, place, f"batch-{batch}")
    title = f"{_LENGTH}: {group.model}, {place}, batch {batch}"
    return Figure(
        title=title,
        name=name,
        caption=(
            "Median time with the 10th to 90th percentile; short dashes are the repeats. Both axes"
            " are logarithmic, lower is better; one panel for each method, series a little beside"
            f" each other. {bought(panel)} As table 6 of Simba (arXiv:2505.20698)."
        ),
        alt=_length_alt(group, timed, quality),
        draw=chart.draw,
        data=data_table(name, title, records(timed, quality), keys=3),
        size=chart.size,
        warnings=(*warnings([panel], group.rows), *disturbed(timed)),
    )


def _tick(seconds: float) -> str:
    """Write a time without zeros that tell nothing: `30 ms`."""
    text, blank, unit = time_of(seconds).partition(" ")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + blank + unit


def _plot(name: str, timed: Sequence[Timed], quality: Mapping[int, Score]) -> Plot:
    """Make a method's panel, its qualities in the title and the dense model beside it."""
    rows = list(dict.fromkeys(t.facts for t in timed))
    own = [f for f in rows if f.variant == name and not f.is_plain_dense]
    styles = looks(sorted({f.setting for f in rows if not f.is_plain_dense}))
    lines = []
    for f in [*(f for f in rows if f.is_plain_dense), *own]:
        shapes = sorted((t for t in timed if t.facts is f), key=lambda t: t.length)
        dots = [
            Dot(t.length, t.numbers["median_s"], t.numbers["p10_s"], t.numbers["p90_s"], t.raw)
            for t in shapes
        ]
        dense = f.is_plain_dense
        text, look = (told(f, quality), DENSE_STYLE) if dense else (f.setting, styles[f.setting])
        lines.append(Line(text, look, dots))
    qualities = ", ".join(f"{f.ratio:.3g}: {value_of(f, quality)}" for f in own)
    return Plot(f"{name} ({qualities})" if own else name, lines)


def _length_alt(group: ByModel, timed: Sequence[Timed], quality: Mapping[int, Score]) -> str:
    longest = max(t.length for t in timed)
    texts = [
        f"{told(t.facts, quality)} {time_of(t.numbers['median_s'] or 0.0)}"
        for t in sorted(timed, key=lambda t: t.numbers["median_s"] or 0.0)
        if t.length == longest
    ]
    return f"{group.model} at {longest} tokens, fastest first: {', '.join(texts)}."
