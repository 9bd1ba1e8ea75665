"""The errors of walkers on a tightrope, simulated beside the exact costs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from etude.errors import InvalidInput
from etude.rollout import BoundPolicy
from etude.studies import error_growth
from etude.studies.error_growth import HORIZONS, log_slope, measure_error_growth, with_errors

AHEAD_FOR_EVER, BACK_TO_THE_ROPE = [1, 1, 1], [2, 1, 0]


def closed_form(error_rate, horizon):
    """The cost of cloning: T less the sum of the geometric series of no error."""
    right = 1 - error_rate
    return horizon - right * (1 - right**horizon) / error_rate


@pytest.fixture
def learned(monkeypatch):
    """What clones and learners of DAgger do, in place of their training."""
    networks = error_growth.NETWORKS
    monkeypatch.setattr(error_growth, "record", lambda *_, **__: None)
    for name, actions in (("clone", AHEAD_FOR_EVER), ("aggregate", BACK_TO_THE_ROPE)):
        table = jnp.tile(jnp.array(actions), (networks, 1))
        monkeypatch.setattr(error_growth, name, lambda *_, table=table: table)


def walks_in_numpy(learned, key, error_rates, size):
    """As `simulate_walks`, step by step."""
    rng, rows = np.random.default_rng(0), np.repeat(learned, error_growth.BATCHES, 0)
    place, costs = np.ones((len(rows), size), int), []
    for _ in range(max(HORIZONS)):
        action = np.take_along_axis(rows, place, 1)
        errs = rng.random(place.shape) < np.asarray(error_rates)[place]
        action = np.where(errs, (action + rng.integers(1, 3, place.shape)) % 3, action)
        place = np.clip(place + action - 1, 0, 2)
        costs.append((place != 1).mean(1))
    return np.cumsum(costs, 0)[np.array(HORIZONS) - 1].T


@pytest.mark.parametrize("in_jax", [False, pytest.param(True, marks=pytest.mark.system)])
def test_simulated_costs_are_those_of_the_formulas(learned, tmp_path, monkeypatch, in_jax):
    """By four standard errors. An error that led a clone back would show: at ε = .05 in a third."""
    if not in_jax:  # whose compilation takes seconds
        monkeypatch.setattr(error_growth, "simulate_walks", walks_in_numpy)
    directory, found = measure_error_growth(0.05, 4_000, out=tmp_path / "figure")
    for name, cost_of in (("cloning", closed_form), ("dagger", np.multiply)):
        growth = found[name]
        exact = cost_of(0.05, np.array(HORIZONS))
        np.testing.assert_allclose(growth["exact"], exact, rtol=1e-5)
        error = np.array(growth["standard_error"])
        assert (error < 0.1 * exact).all()
        assert (np.abs(np.subtract(growth["cost"], exact)) < 4 * error).all()
        assert abs(growth["slope"] - growth["exact_slope"]) < 4 * growth["slope_error"]
        assert 0 < growth["slope_error"] < 0.05
    told = json.loads((directory / "error_growth.json").read_text())
    assert told == found and told["episodes"] == 4_000
    assert found["dagger"]["learned_actions"][0] == BACK_TO_THE_ROPE
    assert Image.open(directory / "error_growth.png").size == (1440, 840)
    with pytest.raises(InvalidInput, match="holds a measurement already; give another --out"):
        measure_error_growth(out=directory)


def test_an_error_is_one_of_the_other_actions():
    places = jnp.ones(2_000, int)
    policy = BoundPolicy(lambda place, memory, key: (jnp.full(2_000, 2), memory))
    for error_rate, shares in ((1.0, [0.5, 0.5, 0]), (0.3, [0.15, 0.15, 0.7])):
        act = with_errors(policy, 3, jnp.array([0, error_rate, 0])).act
        action, memory = act(places, "memory", jax.random.key(0))
        assert memory == "memory"
        np.testing.assert_allclose(np.bincount(action, minlength=3) / 2_000, shares, atol=0.05)
        action, _ = act(2 * places, "memory", jax.random.key(0))
        assert (action == 2).all()  # no error in another place


def test_the_slope_is_that_of_a_power():
    horizons = np.array(HORIZONS, float)
    assert log_slope(3 * horizons**1.7) == pytest.approx(1.7)
    assert log_slope(closed_form(0.001, horizons)) == pytest.approx(1.95, abs=5e-3)
    assert np.isnan(log_slope(0 * horizons))


def test_what_cannot_be_measured_is_refused(tmp_path):
    for error_rate in (0.0, 1.0):
        with pytest.raises(InvalidInput, match="error_rate is .*between 0 and 1"):
            measure_error_growth(error_rate, out=tmp_path)
    with pytest.raises(InvalidInput, match="episodes is 3; give at least 200"):
        measure_error_growth(episodes=3, out=tmp_path)


@pytest.mark.system
def test_cloning_grows_with_the_square_of_the_horizon_and_dagger_with_the_horizon(tmp_path):
    _, found = measure_error_growth(out=tmp_path)
    for name, slope in (("cloning", 1.95), ("dagger", 1.0)):
        assert found[name]["slope_error"] < 0.03
        assert abs(found[name]["slope"] - slope) < 0.15
        np.testing.assert_allclose(found[name]["cost"], found[name]["exact"], rtol=0.15)
    assert (np.array(found["dagger"]["learned_actions"]) == BACK_TO_THE_ROPE).all()
    # no clone comes back to the rope
    assert (np.array(found["cloning"]["learned_actions"])[:, 1] == 1).all()
