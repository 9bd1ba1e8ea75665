"""Multiple shooting of a system that runs away from whatever controls are guessed; in float32, as
it is mostly used."""

import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.protocol import ControlProblem
from etude.planning.trajectory.ilqr import ilqr
from etude.planning.trajectory.multiple_shooting import multiple_shooting

T = 40
LEAST = 1.7169268  # the cost of the best path, in float64
RUNAWAY = ControlProblem(
    lambda x, u: x + 0.1 * (x**3 + u),
    lambda x, u, t: 0.05 * (x @ x + 0.1 * u @ u),
    lambda x: 5 * x @ x,
)
GUESSES = {
    "a straight line": np.linspace(2, 0, T + 1),
    "the start": np.full(T + 1, 2.0),
    "the goal": 2 * np.eye(1, T + 1)[0],
}


@pytest.fixture(scope="module")
def plans():
    """A plan from each guess of the states, without controls."""
    return {
        name: multiple_shooting(RUNAWAY, jnp.float32(states)[:, None], jnp.zeros((T, 1)))
        for name, states in GUESSES.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("guess", GUESSES)
def test_a_guess_of_the_states_leads_to_a_path_that_obeys_the_dynamics(plans, guess):
    plan = plans[guess]
    assert plan.converged and plan.gap == 0 and plan.states[0] == 2
    x, u = np.asarray(plan.states, float), np.asarray(plan.controls, float)
    np.testing.assert_allclose(x[1:], x[:-1] + 0.1 * (x[:-1] ** 3 + u), atol=1e-6)
    np.testing.assert_allclose(
        plan.cost, 0.05 * ((x[:-1] ** 2).sum() + 0.1 * (u**2).sum()) + 5 * x[-1] ** 2, rtol=1e-5
    )


@pytest.mark.slow
def test_single_shooting_overflows_where_it_converges_and_agrees_with_what_it_found(plans):
    found = plans["the start"]
    with pytest.raises(InvalidInput, match="not finite at step [5-8]: .* use multiple shooting"):
        ilqr(RUNAWAY, found.states[0], jnp.zeros((T, 1)))
    single = ilqr(RUNAWAY, found.states[0], found.controls)
    assert single.converged
    for plan in (single, *plans.values()):
        np.testing.assert_allclose(plan.cost, LEAST, rtol=1e-6)
        np.testing.assert_allclose(plan.controls, found.controls, atol=0.01)


@pytest.mark.slow
def test_the_second_order_converges_quadratically():
    plan = multiple_shooting(
        RUNAWAY, jnp.full((T + 1, 1), 2.0), jnp.zeros((T, 1)), second_order=True, iterations=10
    )
    far, near, last = plan.costs[8:] - LEAST
    assert 0.01 < far < 1 and near < far**1.5 and abs(last) < 1e-5


def test_states_and_controls_that_do_not_fit_are_refused():
    with pytest.raises(
        InvalidInput, match=r"the states are \[40, 1\] and the controls are \[40, 1\]; they must be"
    ):
        multiple_shooting(RUNAWAY, jnp.zeros((T, 1)), jnp.zeros((T, 1)))


@pytest.mark.slow
def test_a_guess_that_is_not_finite_is_refused():
    with pytest.raises(InvalidInput, match="not finite at step 3: its cost is nan"):
        multiple_shooting(RUNAWAY, jnp.zeros((T + 1, 1)).at[3].set(jnp.nan), jnp.zeros((T, 1)))
