"""Errors k steps ahead of a model that is wrong in a known way, and ends that are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_members import SPEC, linear_model

from etude.data.dataset import Dataset
from etude.data.transition import Transition
from etude.models.episode_end import fit_episode_end, init_episode_end
from etude.models.known_functions import known_functions
from etude.models.prediction_error import prediction_errors

KEY = jax.random.key(0)


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
def test_the_end_of_a_cart_pole_is_learned_to_its_edge():
    """Of 2,000 rows of states around the limits, fewer than 2 % of those within 5 % of one are
    wrong, and those far away are sure."""
    rng = np.random.default_rng(0)
    ends = known_functions("CartPole-v1").terminated
    scale = np.float32([2.4, 2.0, 0.2095, 2.0])

    def steps_of(count):
        state = jnp.asarray(rng.uniform(-1.2, 1.2, (count, 4)) * scale, jnp.float32)
        return state, jax.vmap(ends)(state, jnp.zeros(count), state)

    state, terminated = steps_of(2_000)
    end = fit_episode_end(
        init_episode_end(KEY, 4), state / scale, terminated, jnp.ones(2_000, bool), KEY
    )
    probed, wanted = steps_of(20_000)
    is_wrong = (end.probability(probed / scale) > 0.5) != wanted
    edge = jnp.abs(jnp.maximum(jnp.abs(probed[:, 0] / 2.4), jnp.abs(probed[:, 2] / 0.2095)) - 1)
    assert is_wrong.mean() < 0.02
    assert is_wrong[edge > 0.05].mean() < 0.005
    print("at the edge", is_wrong[edge < 0.05].mean())
