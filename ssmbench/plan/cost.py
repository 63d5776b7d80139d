"""What a cell will cost: FLOPs by formula, seconds from them and from what past cells took.

FLOPs are those of the dense model: an upper bound, since what a method removes is not known
before it ran. Seconds are for finding the order and for showing; nothing else depends on them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from ssmbench import plugins
from ssmbench.grid.fine_tune_entry import TRAINING
from ssmbench.models.flops import forward_flops
from ssmbench.plan.resolve import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ssmbench.grid.fine_tune import Recipe
    from ssmbench.plan.cells import Calibration, Cell, Resources, Suite
    from ssmbench.plan.history import History, Records

# Tokens that a suite runs where its plugin does not say: about one task's.
DEFAULT_TOKENS = 200_000
# With a limit: about one document of a multiple-choice task, all its choices.
TOKENS_PER_DOCUMENT = 400
# Attention's share grows with the length; this is a typical one.
LENGTH = 512
# Until there are past cells: what PyTorch reaches in float32 on a CPU core, and in half
# precision on a data-centre GPU, on models as small as these; and a suite's start.
CPU_FLOPS_PER_S, GPU_FLOPS_PER_S, START_S = 2e10, 2e13, 2.0


class Line(NamedTuple):
    """Seconds as a straight line in FLOPs."""

    start_s: float
    s_per_flop: float

    def seconds(self, flops: float) -> float:
        """Give the time of a piece of work."""
        return self.start_s + self.s_per_flop * flops


class Costs:
    """Estimates for a plan; counts each model and suite once, however many cells there are."""

    def __init__(self, history: History, records: Records) -> None:
        """Fit how long past suites took.

        Args:
            history: what the run folder holds; empty for a new run.
            records: the same history's cells and suites.
        """
        self._records = records
        self._per_token: dict[str, float | None] = {}
        self._tokens: dict[str, int] = {}
        self._lines = self._fit(history)

    def flops(self, cell: Cell, suites: Iterable[Suite]) -> int | None:
        """Estimate the FLOPs of compressing, training and measuring; None if unknown."""
        per_token = self._flops_per_token(cell)
        if per_token is None:
            return None
        tokens = sum(self._tokens_for(cell, suite) for suite in suites)
        return round((tokens + calibration_tokens(cell.calibration)) * per_token)

    def seconds(self, cell: Cell, suites: Iterable[Suite], resources: Resources) -> float | None:
        """Estimate the seconds of compressing, training and measuring; None if not known."""
        per_token = self._flops_per_token(cell)
        if per_token is None:
            return None
        line, total = _default(resources), 0.0
        for suite in suites:
            line = self._lines.get(suite.name) or self._lines.get(suite.kind) or _default(resources)
            total += line.seconds(self._tokens_for(cell, suite) * per_token)
        return total + line.s_per_flop * calibration_tokens(cell.calibration) * per_token

    def _flops_per_token(self, cell: Cell) -> float | None:
        source = cell.model.source
        if source not in self._per_token:
            found = describe(cell.model)
            flops = None if found is None else forward_flops(found, tokens=LENGTH) / LENGTH
            self._per_token[source] = flops
        return self._per_token[source]

    def _tokens_for(self, cell: Cell, suite: Suite) -> int:
        # Until the loss curve is there, the training is still to be done; then it is stored.
        training = training_tokens(cell.fine_tune.recipe) if suite.name == TRAINING else 0
        return self._suite_tokens(suite) + training

    def _suite_tokens(self, suite: Suite) -> int:
        if suite.id not in self._tokens:
            self._tokens[suite.id] = suite_tokens(suite)
        return self._tokens[suite.id]

    def _fit(self, history: History) -> dict[str, Line]:
        """Fit a line for each suite's name, and for each kind where a suite is new."""
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for suite, flops, seconds in self._past(history):
            points[suite.name].append((flops, seconds))
            points[suite.kind].append((flops, seconds))
        return {name: fit(found) for name, found in points.items()}

    def _past(self, history: History) -> Iterator[tuple[Suite, float, float]]:
        for (cell_id, suite_id), seconds in history.seconds.items():
            cell, suite = self._records.cell(cell_id), self._records.suite(suite_id)
            per_token = self._flops_per_token(cell) if cell else None
            # Handing over a loss curve takes no time, which says nothing about other suites.
            if suite and suite.name != TRAINING and per_token is not None:
                yield suite, self._suite_tokens(suite) * per_token, seconds


def calibration_tokens(calibration: Calibration | None) -> int:
    """Count the tokens that a cell's methods look at."""
    return calibration.samples * calibration.length if calibration else 0


def training_tokens(recipe: Recipe | None) -> int:
    """Count a cell's training in tokens of one forward pass that would cost as much.

    Backwards costs one more for the activations and another for weights that are trained; kd runs
    the teacher as well, and dense+sparse runs everything a second time, at most over all tokens.
    """
    if recipe is None:
        return 0
    passes = 2 if recipe.adapters == "lora" else 3
    passes += recipe.kind == "kd"
    passes *= 2 if recipe.kind == "dense+sparse" else 1
    return recipe.steps * recipe.batch * recipe.length * passes


def suite_tokens(suite: Suite) -> int:
    """Estimate how many tokens a suite runs through a model: as its plugin says, or a guess."""
    if suite.name in plugins.names("suite"):
        plugin = plugins.load("suite", suite.name)
        if hasattr(plugin, "tokens"):
            params = plugin.Params.model_validate(dict(suite.params))
            said: int | None = plugin.tokens(params, suite.limit)
            if said is not None:
                return said
    return DEFAULT_TOKENS if suite.limit is None else suite.limit * TOKENS_PER_DOCUMENT


def fit(points: list[tuple[float, float]]) -> Line:
    """Fit seconds to FLOPs by least squares, neither start nor slope below zero.

    Args:
        points: (FLOPs, seconds), at least one.
    """
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    start = mean_y - slope * mean_x
    if slope > 0 and start >= 0:
        return Line(start, slope)
    # One size of work only, or noise: proportional, through the mean.
    return Line(0.0, mean_y / mean_x) if mean_x else Line(mean_y, 0.0)


def _default(resources: Resources) -> Line:
    if resources.num_gpus:
        return Line(START_S, 1 / (GPU_FLOPS_PER_S * max(resources.num_gpus, 1)))
    return Line(START_S, 1 / (CPU_FLOPS_PER_S * max(resources.num_cpus, 1)))
