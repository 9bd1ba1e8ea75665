"""Errors k steps ahead of a model that is wrong in a known way, and ends that are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_members import SPEC, linear_model

from etude.data.dataset import Dataset
from etude.data.transition import Transition
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS
from etude.models.episode_end import fit_episode_end, init_episode_end
from etude.models.learned_model import step_vector
from etude.models.model_rows import action_vector
from etude.models.prediction_error import prediction_errors
from etude.models.standardization import standardization_of
from etude.runs.known_steps import play_at_random

KEY = jax.random.key(0)
CART_POLE = JaxEnvs(PORTS["CartPole-v1"](), 1)


def test_the_error_grows_as_the_closed_form_of_a_linear_system():
    """P-9: s' = 0.9 s is taken for s' = 1.1 s. From s, the error of k steps is (1.1ᵏ − 0.9ᵏ) s,
    in units of the spread of states; only starts with k more steps in their episode count."""
    lengths, true, model = [4, 7], 0.9, 1.1
    paths = [5.0 * true ** np.arange(length + 1) for length in lengths]
    before = np.concatenate([path[:-1] for path in paths])
    after = np.concatenate([path[1:] for path in paths])
    count = len(before)
    steps = Transition(
        np.float32(before)[:, None],
        np.zeros((count, 1), np.float32),
        np.zeros(count, np.float32),
        np.float32(after)[:, None],
        np.zeros(count, bool),
        np.arange(count) == count - 1,
    )
    dataset = Dataset(steps, np.int32(lengths), SPEC)
    found = jax.jit(
        lambda dataset: prediction_errors(
            linear_model((model,), "ts-infinity"), dataset, KEY, (1, 3, 8)
        )
    )(jax.tree.map(jnp.asarray, dataset))
    for k in (1, 3):
        starts = np.concatenate([path[: len(path) - k] for path in paths])
        wanted = (model**k - true**k) * np.sqrt(np.mean(starts**2)) / after.std()
        np.testing.assert_allclose(found[f"error_{k}"], wanted, rtol=0.05)  # 1,000 random starts
    assert np.isnan(found["error_8"])  # no episode is so long


@pytest.mark.system
def test_the_end_of_a_cart_pole_is_learned_from_two_thousand_steps():
    """Of other steps at random fewer than 2 % are told wrong, of those within 0.05 rad of the limit
    fewer than 8 %: some 90 ends do not show it better. Far from it no end is predicted."""
    steps = play_at_random(CART_POLE, 8_000)
    action = action_vector(CART_POLE.spec.action, jnp.asarray(steps.action))
    state, successor = jnp.asarray(steps.observation), jnp.asarray(steps.next_observation)
    seen = jnp.arange(8_000) < 2_000
    inputs = standardization_of(jnp.concatenate([state, action], -1), seen)
    vectors = step_vector(inputs, state, action, successor)
    terminated = jnp.asarray(steps.terminated)
    start = init_episode_end(KEY, vectors.shape[1])
    end = jax.jit(fit_episode_end)(start, vectors, terminated, seen, KEY)
    probability = end.probability(vectors)
    is_wrong = (probability > 0.5) != terminated
    is_near = jnp.abs(jnp.abs(successor[:, 2]) - 0.2095) < 0.05
    assert is_wrong[~seen].mean() < 0.02
    assert is_wrong[~seen & is_near].mean() < 0.08
    assert probability[~is_near & ~terminated].mean() < 1e-3
