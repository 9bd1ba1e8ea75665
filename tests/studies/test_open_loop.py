"""What looking is worth, measured and drawn by one command."""

import json

import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.studies.open_loop import DISTURBANCES, measure_open_loop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measure_open_loop(2, out=tmp_path_factory.mktemp("figure"))


def test_without_a_shake_all_keep_the_pole_and_with_it_those_who_look(measured):
    costs = {name: np.array(values).mean(1) for name, values in measured[1]["costs"].items()}
    assert (
        costs["open loop"][0] == pytest.approx(costs["feedback"][0], rel=1e-3)
        and costs["receding horizon"][0] < 1
    )
    for looks in ("feedback", "receding horizon"):
        assert (costs["open loop"][1:] > 2 * costs[looks][1:]).all() and (
            np.diff(costs[looks]) > 0
        ).all()


def test_it_is_written_and_drawn(measured):
    directory, found = measured
    told = json.loads((directory / "open_loop.json").read_text())
    assert (
        told["runs"] == 2
        and told["costs"] == found["costs"]
        and told["shakes"] == list(DISTURBANCES)
    )
    assert (directory / "open_loop.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(InvalidInput, match="holds a measurement already; give another --out"):
        measure_open_loop(2, out=directory)


def test_too_few_runs_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="runs is 1; give at least 2"):
        measure_open_loop(1, out=tmp_path)
