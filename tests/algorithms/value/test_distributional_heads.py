"""What distributional heads say of an action: losses against loops, and the exact distribution of a
known return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.rainbow import Rainbow
from etude.errors import InvalidInput
from etude.struct import validate


def outputs(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_categorical_loss_is_cross_entropy_and_its_surprise_the_divergence():
    kind, of_action = CategoricalHead(11, -5.0, 5.0), outputs(0, 4, 11)
    target, loss_of = scipy.special.softmax(outputs(1, 4, 11), -1), jax.jit(kind.loss)
    loss, surprise = loss_of(of_action, target)
    np.testing.assert_allclose(
        loss, -(target * scipy.special.log_softmax(of_action, -1)).sum(-1), rtol=1e-5
    )
    p = np.asarray(target, float)
    np.testing.assert_allclose(
        surprise, (p * (np.log(p) - scipy.special.log_softmax(of_action, -1))).sum(-1), atol=1e-5
    )
    np.testing.assert_allclose(loss_of(np.log(target), target)[1], 0, atol=1e-5)
    sure = np.eye(11, dtype=np.float32)[[3] * 4]
    assert np.isfinite(loss_of(of_action, sure)[1]).all()  # 0 log 0


def test_distributions_are_learned_and_not_their_means_alone():
    """A return of 0 or 4, each half of the time, by gradient steps on samples."""
    rewards = np.float32([0.0, 4.0] * 8)
    for kind in (CategoricalHead(9, -4.0, 4.0), QuantileHead(4)):

        def loss(x, kind=kind):
            target = kind.target(jnp.zeros((16, kind.num_atoms)), rewards, jnp.zeros(16))
            return kind.loss(jnp.broadcast_to(x, (16, kind.num_atoms)), target)[0].mean()

        descend = jax.jit(
            lambda x, loss=loss: jax.lax.fori_loop(
                0, 2000, lambda _, x: x - 0.5 * jax.grad(loss)(x), x
            )
        )
        found = descend(np.zeros(kind.num_atoms, np.float32))
        assert float(kind.mean(found)) == pytest.approx(2, abs=0.1)
        if isinstance(kind, CategoricalHead):
            np.testing.assert_allclose(scipy.special.softmax(found)[[4, 8]], 0.5, atol=0.02)
        else:
            # where Huber's slope τ on one side meets (1 - τ) × distance on the other: τ / (1 - τ)
            # from each return
            np.testing.assert_allclose(found, [1 / 7, 3 / 5, 4 - 3 / 5, 4 - 1 / 7], atol=1e-3)


@pytest.mark.parametrize(
    "head, message",
    [
        (QuantileHead(1), "num_atoms is 1; it must be at least 2"),
        (CategoricalHead(1), "num_atoms is 1; it must be at least 2"),
        (CategoricalHead(5, 1.0, 1.0), "v_min 1.0 is not below v_max 1.0"),
    ],
)
def test_distributions_of_no_spread_are_refused(head, message):
    with pytest.raises(InvalidInput, match=message):
        validate(head)


def test_returns_outside_the_support_are_seen_as_mass_on_its_ends():
    head, zeros = CategoricalHead(11, -5.0, 5.0), np.zeros(8, np.float32)
    edge_mass = jax.jit(
        lambda reward: head.target_metrics(head.target(jnp.zeros((8, 11)), reward, zeros))
    )
    for reward, mass in ((-20, 1), (20, 1), (5, 1), (0, 0), (4.5, 0.5)):
        told = edge_mass(zeros + np.float32(reward))["support_edge_mass"]
        assert told == pytest.approx(mass)


def test_rainbow_without_the_range_of_returns_has_quantiles():
    assert Rainbow().head == QuantileHead()
