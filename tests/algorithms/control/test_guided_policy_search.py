"""Guided policy search on a linear-quadratic problem, whose gains are known, and its refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.control.guided_policy_search import (
    FACTORS,
    LIMITS,
    GuidedPolicySearch,
    adapted_limit,
)
from etude.algorithms.protocol import init_state
from etude.data.transition import zeros_like_spec
from etude.errors import InvalidInput
from etude.models import true_models
from etude.planning.protocol import LiftedModel, ModelStep
from etude.planning.trajectory.lqr import infinite_horizon_lqr
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate

KEY = jax.random.key(0)
# x' = A x + B a, reward -(x·x + R a²) / 2, for small x
A, B, R = np.array([[0.9, 0.2], [0.0, 0.7]]), np.array([[0.1], [0.4]]), 0.3
SPEC = EnvironmentSpec(Box((2,)), Box((1,), low=-1.0, high=1.0), 2, "Linear-v0")


def step_linear(state, action, key):
    after = jnp.float32(A) @ state + jnp.float32(B) @ action
    return ModelStep(after, -(state @ state + R * action @ action) / 2, jnp.ones(()))


def apply_scale(scale, observation):
    return scale * observation


def linear_torso(key, space):
    """The observation itself, each element by a factor: the policy is linear."""
    return jax.tree_util.Partial(apply_scale, jnp.ones(2))


@pytest.fixture
def linear(monkeypatch):
    """The model of a linear environment, registered for one test."""
    monkeypatch.setitem(true_models.USER_MODELS, "Linear-v0", LiftedModel(step_linear, ends=False))


def visited(key):
    """Experience whose observations are uniform in a small box."""
    shapes = jax.eval_shape(lambda: zeros_like_spec(SPEC))
    blank = jax.tree.map(lambda x: jnp.zeros((20, *x.shape), x.dtype), shapes)
    return replace(blank, observation=jax.random.uniform(key, (20, 2, 2), minval=-0.3, maxval=0.3))


@pytest.mark.system
def test_on_a_linear_quadratic_problem_the_gains_are_those_of_lqr_and_teachers_agree(linear):
    algorithm = GuidedPolicySearch(
        torso=linear_torso,
        horizon=25,
        taught_steps=10,
        teachers=16,
        gradient_steps=150,
        learning_rate=1e-2,
        batch_size=128,
        min_std=0.05,
        initial_std=0.1,
    )
    update = jax.jit(algorithm.update)
    state, agreement = algorithm.init(KEY, SPEC), []
    for i in range(25):
        key = jax.random.fold_in(KEY, i)
        state, metrics = update(state, visited(key), key)
        agreement.append(float(metrics["agreement"]))
        assert metrics["kl"] <= 1.1 * metrics["kl_limit"]
    gain = jax.jacfwd(lambda x: state.policy(x).mode())(jnp.zeros(2))
    F, C = np.hstack([A, B]), np.diag([1, 1, R])
    K = infinite_horizon_lqr(jnp.float32(F), jnp.float32(C)).K
    np.testing.assert_allclose(gain, K, atol=0.01 * np.abs(K).max())
    # the divergence of the teachers from what they taught falls, five updates by five
    assert (np.diff(np.reshape(agreement, (5, 5)).mean(1)) < 0).all()
    assert np.mean(agreement[-5:]) < 0.2 * np.mean(agreement[:2])


def test_the_bound_follows_how_well_the_improvement_was_predicted():
    for predicted, actual, factor in (
        (2, 1, 1),
        (3, 2, 1.5),
        (1, 5, FACTORS[1]),
        (1, -9, FACTORS[0]),
    ):
        limit = adapted_limit(jnp.float32(0.2), jnp.float32(predicted), jnp.float32(actual))
        np.testing.assert_allclose(limit, np.clip(0.2 * factor, *LIMITS), rtol=1e-6)
    unknown = adapted_limit(jnp.float32(0.2), jnp.nan, jnp.nan)
    np.testing.assert_allclose(unknown, 0.2 * FACTORS[0], rtol=1e-6)


def test_more_lessons_than_steps_are_refused():
    with pytest.raises(InvalidInput, match="taught_steps is 30, more than the 20 steps"):
        validate(GuidedPolicySearch(horizon=20, taught_steps=30))


def test_what_has_no_derivatives_or_no_model_is_refused():
    init = partial(init_state, GuidedPolicySearch(), KEY)
    with pytest.raises(InvalidInput, match="true model of 'Unknown-v0' is not at hand"):
        init(replace(SPEC, id="Unknown-v0"))
    with pytest.raises(InvalidInput, match="GuidedPolicySearch takes bounded Box actions"):
        init(replace(SPEC, action=Discrete(2)))
    car = true_models.port_of("MountainCarContinuous-v0")
    spec = EnvironmentSpec(car.observation_space, car.action_space, 2, "MountainCarContinuous-v0")
    with pytest.raises(InvalidInput, match="guided policy search needs derivatives.*can end"):
        init(spec)
