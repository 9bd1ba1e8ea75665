"""What every head says of an action: shapes, and means and targets by Bellman's equation."""

import jax
import numpy as np
import pytest

from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.heads import ScalarHead

HEADS = [
    ScalarHead("huber"),
    ScalarHead("squared"),
    CategoricalHead(11, -5.0, 5.0),
    QuantileHead(8),
]


def outputs(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", HEADS, ids=str)
def test_shapes(kind):
    of_action, next_action = outputs(0, 3, 2, kind.num_atoms), outputs(1, 3, 2, kind.num_atoms)
    assert kind.mean(of_action).shape == (3, 2)
    target = jax.jit(kind.target)(
        next_action, np.ones((3, 2), np.float32), np.full((3, 2), 0.9, np.float32)
    )
    loss, surprise = jax.jit(kind.loss)(of_action, target)
    assert target.shape == of_action.shape and loss.shape == surprise.shape == (3, 2)
    assert (np.asarray(loss) >= 0).all() and (np.asarray(surprise) >= -1e-6).all()


@pytest.mark.parametrize("kind", HEADS, ids=str)
def test_a_targets_mean_is_the_bellman_target(kind):
    """Inside the support, r + γ E[Z]; and the reward alone where the discount is 0."""
    after = np.float32(0.2) * outputs(1, 6, kind.num_atoms)
    reward, discount = outputs(2, 6) / 5, np.float32([0.5, 0, 0.5, 0, 0.5, 0])
    target, mean = jax.jit(lambda *of: (kind.target(*of), kind.mean(of[0])))(
        after, reward, discount
    )
    of_target = (
        np.asarray(target) @ np.linspace(-5, 5, 11)
        if isinstance(kind, CategoricalHead)
        else np.asarray(target).mean(-1)
    )
    np.testing.assert_allclose(of_target, reward + discount * np.asarray(mean), atol=1e-5)
