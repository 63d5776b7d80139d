"""The grids that come with the project: each asks a question, and is planned without a network."""

from __future__ import annotations

import re
import socket
from collections import Counter
from pathlib import Path

import pytest

from ssmbench.grid.read import read_grid
from ssmbench.plan.expand import expand

GRIDS = sorted((Path(__file__).parents[1] / "grids").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("planning a grid opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def entries(name):
    return expand(read_grid(next(path for path in GRIDS if path.stem == name)))


def cells(name):
    return [entry.cell for entry in entries(name)]


def simba_params(cell):
    return cell.steps[-1].params if cell.method == "simba" else {}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_grid_opens_with_its_question_and_is_planned_offline(path):
    opening = path.read_text("utf-8").split("#\n")[0]
    assert re.fullmatch(r"(# .*\n)+", opening)
    assert opening.rstrip().endswith("?")
    assert expand(read_grid(path))


def test_the_main_grid_has_every_size_dense_and_at_both_of_the_papers_ratios():
    found = cells("simba")
    dense = [cell.model.name for cell in found if cell.method == "dense"]
    assert len(dense) == 15
    for method in ("simba", "utrc"):
        for ratio in (0.3, 0.9):
            plain = {
                cell.model.name
                for cell in found
                if (cell.method, cell.ratio) == (method, ratio)
                and simba_params(cell).get("schedule", "linear") == "linear"
            }
            assert plain == {name for name in dense if name.startswith("mamba")}, (method, ratio)


def test_the_main_grid_matches_each_size_with_the_next_smaller_one():
    ratios = {0, 0.3, 0.9}
    found = {
        cell.model.name: cell
        for cell in cells("simba")
        if cell.method == "simba"
        and (cell.ratio not in ratios or simba_params(cell)["schedule"] == "power")
    }
    big = ("2.8b", "1.4b", "790m", "370m")
    big2 = ("2.7b", "1.3b", "780m", "370m")
    assert set(found) == {f"mamba-{s}" for s in big} | {f"mamba2-{s}" for s in big2}
    assert found["mamba-2.8b"].ratio == 0.9765
    steep = {name for name, cell in found.items() if simba_params(cell)["schedule"] == "power"}
    assert steep == {"mamba-370m", "mamba2-370m"}


def test_the_ablation_has_figure_6_with_three_seeds_of_random():
    found = Counter(
        (simba_params(cell)["criterion"], cell.ratio)
        for cell in cells("simba-ablation")
        if cell.method == "simba" and cell.model.name == "mamba-2.8b"
    )
    for kept in (0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1):
        ratio = round(1 - kept, 9)
        assert found["random", ratio] == 3
        for criterion in ("uniform", "recent", "delete", "dt_norm", "clip_sum"):
            assert found[criterion, ratio] == 1, (criterion, ratio)
        assert found["influence", ratio] >= 1
    references = [cell for cell in cells("simba-ablation") if cell.method == "dense"]
    assert {cell.model.name for cell in references} == {"mamba-1.4b", "mamba-2.8b"}


def test_every_time_of_simba_stands_beside_a_score_which_is_that_of_the_main_grid():
    timed, main = entries("simba-time"), entries("simba")
    assert len(timed) == 4
    assert all([s.name for s in e.suites] == ["few_shot", "latency"] for e in timed)
    scored = {(e.cell.id, s.id) for e in main for s in e.suites}
    assert {(e.cell.id, e.suites[0].id) for e in timed} <= scored


def test_the_toy_grids_stay_small():
    assert len(cells("simba-toy")) <= 40
    assert len(cells("simba-toy-ablation")) <= 120
