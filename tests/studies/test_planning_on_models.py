"""The studies of planning on models: their exact parts, their files, and what they show."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from etude.errors import InvalidInput
from etude.studies import action_dimension, distribution_shift, horizon_and_replanning, model_error
from etude.studies import risk as risk_study


def cost_in_numpy(start, controls):
    """The cost of a plan for the point mass, step by step."""
    position, velocity = start
    cost = 0.0
    for control in controls:
        cost += (position @ position + 0.1 * velocity @ velocity + 0.1 * control @ control) / 2
        velocity = velocity + 0.1 * control
        position = position + 0.1 * velocity
    return cost


def test_the_point_mass_of_lqr_is_that_of_the_planners():
    problem, rng = action_dimension.point_mass(), np.random.default_rng(0)
    state, controls = np.array([0.3, -0.2]), rng.uniform(-1, 1, (20, 1))
    of_model = of_problem = 0.0
    x, z = jnp.float32(state), state
    step_mass = jax.jit(action_dimension.step_mass)
    C, F = np.asarray(problem.C[0]), np.asarray(problem.F[0])
    for control in controls:
        step = step_mass(x, jnp.float32(control))
        x, of_model = step.state, of_model - float(step.reward)
        both = np.concatenate([z, control])
        of_problem += both @ C @ both / 2
        z = F @ both
    expected = cost_in_numpy((state[:1], state[1:]), controls)
    np.testing.assert_allclose([of_model, of_problem], expected, rtol=1e-5)
    np.testing.assert_allclose(x, z, rtol=1e-5)


def test_the_error_of_a_linear_system_is_that_of_the_formula():
    for stretch in model_error.STRETCHES:
        simulated = np.asarray(model_error.simulate_error(stretch))
        for k, error in zip(model_error.STEPS_AHEAD, simulated, strict=True):
            exact = 0.01 * (k if stretch == 1 else (1 - stretch**k) / (1 - stretch))
            assert model_error.compounded_error(0.01, stretch, k) == pytest.approx(exact)
            assert error == pytest.approx(exact, rel=1e-9)


def test_the_unknown_field_costs_what_it_costs():
    step_past_field = jax.jit(risk_study.step_past_field)
    for position, inside in (((0.5, 0.0), True), ((0.5, 0.3), False), ((0.1, 0.0), False)):
        assert bool(risk_study.is_inside(np.array(position))) is inside
        state = jnp.array([*position, 2.0])
        step = step_past_field(state, jnp.zeros(2), jax.random.key(0))
        distance = np.hypot(1 - position[0], position[1])
        assert float(step.reward) == pytest.approx(-distance - 2 * inside, rel=1e-5)


def test_what_cannot_be_measured_is_refused(tmp_path):
    for measure, words in (
        (lambda: horizon_and_replanning.measure_horizon_and_replanning((4,)), "each 5 or more"),
        (lambda: action_dimension.measure_action_dimension((0,)), "each 1 or more"),
        (lambda: action_dimension.measure_action_dimension((1,), seeds=1), "give at least 2"),
        (lambda: distribution_shift.measure_distribution_shift(1), "give at least 2 of each"),
        (lambda: model_error.measure_model_error((10,)), "give numbers from 50 to 8000"),
        (lambda: risk_study.measure_risk((-1.0,)), "give numbers of 0 or more"),
    ):
        with pytest.raises(InvalidInput, match=words):
            measure()


def test_a_measurement_grows_and_is_drawn(tmp_path, monkeypatch):
    """Without the search, which takes a second to compile."""
    asked = []

    def shares(planner, keys, dimension, samples):
        asked.append(dimension)
        return jnp.full(len(keys), 1 / dimension)

    monkeypatch.setattr(action_dimension, "shares_of_optimum", shares)
    for dimensions in ((1,), (1, 2)):
        directory, measured = action_dimension.measure_action_dimension(
            dimensions, seeds=2, out=tmp_path
        )
    assert asked == 3 * [1] + 3 * [2]
    assert json.loads((directory / "action_dimension.json").read_text()) == measured
    assert {name: curve["2"]["iqm"] for name, curve in measured["planners"].items()} == {
        "random shooting": 0.5,
        "CEM": 0.5,
        "iCEM": 0.5,
    }
    assert Image.open(directory / "action_dimension.png").size == (1440, 840)
    with pytest.raises(InvalidInput, match="other settings .*seeds.*another --out"):
        action_dimension.measure_action_dimension((1,), seeds=3, out=tmp_path)


@pytest.mark.system
def test_planners_of_samples_reach_less_in_more_dimensions(tmp_path):
    _, measured = action_dimension.measure_action_dimension((1, 8, 32), seeds=8, out=tmp_path)
    for curve in measured["planners"].values():
        shares = [curve[dimension]["iqm"] for dimension in ("1", "8", "32")]
        assert shares[0] > shares[1] + 0.05 > shares[2] + 0.1 and shares[0] <= 1.0001
    for dimension in ("8", "32"):
        by_planner = [curve[dimension]["iqm"] for curve in measured["planners"].values()]
        assert by_planner == sorted(by_planner)


@pytest.mark.system
def test_who_replans_needs_no_long_horizon(tmp_path):
    _, measured = horizon_and_replanning.measure_horizon_and_replanning(
        (15, 30), seeds=4, episodes=4, out=tmp_path
    )
    every_step, _, to_the_end = measured["intervals"].values()
    assert every_step["15"]["iqm"] > to_the_end["30"]["iqm"]
    assert Image.open(tmp_path / "horizon_and_replanning.png").size == (1440, 840)


@pytest.mark.system
def test_promises_are_kept_where_the_model_is_fitted_again(tmp_path):
    _, measured = distribution_shift.measure_distribution_shift(fits=4, seeds=8, out=tmp_path)
    assert Image.open(tmp_path / "distribution_shift.png").size == (1440, 840)

    def size_of_gap(version, fit):
        return np.abs(measured["versions"][version][fit]["per_seed"]).mean()

    assert size_of_gap("version 0.5", "4") > size_of_gap("version 0.5", "1") / 2
    assert size_of_gap("version 1.0", "4") < size_of_gap("version 1.0", "1") / 2


@pytest.mark.system
def test_errors_grow_with_steps_ahead_and_fall_with_data(tmp_path):
    _, measured = model_error.measure_model_error((400, 6_400), seeds=4, out=tmp_path)
    assert Image.open(tmp_path / "model_error.png").size == (1440, 840)
    for curve in measured["pendulum"].values():
        errors = [curve[str(k)]["iqm"] for k in model_error.STEPS_AHEAD]
        assert (np.diff(errors) > 0).all()
    few, many = measured["pendulum"]["400"], measured["pendulum"]["6400"]
    assert all(many[k]["iqm"] < few[k]["iqm"] for k in many)


@pytest.mark.system
def test_who_minds_risk_goes_round(tmp_path):
    _, measured = risk_study.measure_risk((0.0, 1.0), seeds=4, episodes=5, out=tmp_path)
    assert Image.open(tmp_path / "risk.png").size == (1440, 840)
    straight, round_it = measured["risk_aversion"]["0.0"], measured["risk_aversion"]["1.0"]
    assert straight["inside"] > 2 and round_it["inside"] < 1
    assert round_it["spread"] < straight["spread"] / 2
