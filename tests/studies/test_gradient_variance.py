"""The variance of the policy gradient, measured and drawn by one command."""

import json

import pytest

from etude.errors import InvalidInput
from etude.studies.gradient_variance import WEIGHTS, measure_gradient_variance

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measure_gradient_variance(4_000, out=tmp_path_factory.mktemp("figure"))


def test_it_falls_in_the_order_of_the_notes(measured):
    """Each step from the whole return to the value of the state takes some away; the optimal
    baseline next to nothing here."""
    _, found = measured
    whole, to_go, average, optimal, value = (found[name]["variance"] for name in WEIGHTS)
    assert (
        whole > 1.2 * to_go
        and to_go > 1.05 * average
        and average >= optimal * 0.999
        and average > 1.02 * value
    )


def test_every_weight_has_the_gradient_right_on_average(measured):
    assert all(one["error"] < 2 for one in measured[1].values())


def test_it_is_written_and_drawn(measured):
    directory, found = measured
    told = json.loads((directory / "policy_gradient_variance.json").read_text())
    assert told["episodes"] == 4_000 and {name: told[name] for name in WEIGHTS} == found
    assert (directory / "policy_gradient_variance.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(InvalidInput, match="holds a measurement already; give another --out"):
        measure_gradient_variance(4_000, out=directory)


def test_too_few_episodes_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="episodes is 3; give at least 100"):
        measure_gradient_variance(3, out=tmp_path)
