"""Normalized advantages of batches of one and two samples, and clips that decay to their end."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call, filled

from etude.algorithms.actor_critic.actor_critic import ActorCritic
from etude.algorithms.common.on_policy import LearnerState, RolloutBatch
from etude.algorithms.policy_gradient.reinforce import EpisodeBatch, Reinforce
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.trust_region.trpo import TRPO, NaturalGradient
from etude.nn import policies
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace

SPEC = EnvironmentSpec(Box((3,)), Discrete(2), 1)
KEY = jax.random.key(0)
NETWORKS = filled(lambda: policies.make_actor_critic(KEY, SPEC, (2,)))
SMALL = {"hidden": (2,), "normalize_advantage": True}


def batch_of(n):
    rng = np.random.default_rng(n)
    observation = jnp.asarray(rng.normal(size=(n, 3)), jnp.float32)
    action = jnp.arange(n) % 2
    log_prob = call(NETWORKS.policy, observation).log_prob(action)
    advantage, value, target = jnp.asarray(rng.normal(2, 1, (3, n)), jnp.float32)
    return RolloutBatch(observation, action, log_prob, value, advantage, target, ())


@jax.jit
def ppo_loss(policy, batch, steps=0, clip=0.2, clip_decay=math.inf):
    ppo = PPO(**SMALL, clip=clip, clip_decay=clip_decay)
    return ppo.policy_loss(policy(batch.observation), batch, 0.0, jnp.int32(steps))[0]


def actor_critic_step(policy, batch):
    """The first moment of the optimizer after a step, a tenth of the gradient of the policy."""
    algorithm = ActorCritic(**SMALL, value_coefficient=0.0)
    networks = replace(NETWORKS, policy=policy)
    opt_state = algorithm.optimizer(jnp.int32(0)).init(networks)
    learner = LearnerState(networks, (opt_state, ()), (), None, None, jnp.int32(0))
    weight = jnp.ones(len(batch.advantage))
    after, _ = algorithm.gradient_step(learner, batch, weight, (), KEY)
    return after.opt_state[0][1][0].mu.policy


GRADIENTS = {
    "ppo": jax.grad(ppo_loss),
    "trpo": jax.grad(TRPO(**SMALL).surrogate),
    "natural-gradient": jax.grad(NaturalGradient(**SMALL).surrogate),
    "actor-critic": actor_critic_step,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_batch_of_one_or_two_moves_the_policy(name):
    gradient_of = jax.jit(GRADIENTS[name])
    for n in (1, 2):
        assert abs(gradient_of(NETWORKS.policy, batch_of(n)).head.bias).max() > 1e-3


def test_one_valid_step_of_reinforce_keeps_its_advantage():
    algorithm = Reinforce(normalize_advantage=True)
    advantage = jnp.float32([[3.0], [4.0], [8.0]])
    for valid, expected in (
        ([[False], [True], [False]], [4]),
        ([[False], [True], [True]], [-1, 1]),
    ):
        episodes = EpisodeBatch(None, np.array(valid), None)
        told = algorithm.normalize_advantages(episodes, advantage)
        np.testing.assert_allclose(told[np.array(valid)], expected, rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 5, 10, 1000])
def test_an_infinite_clip_stays_one_while_it_decays(steps):
    batch = batch_of(4)
    batch = replace(batch, old_log_prob=batch.old_log_prob - jnp.float32([2, -2, 1, 0]))
    loss = partial(ppo_loss, NETWORKS.policy, batch, steps)
    assert loss(clip=math.inf, clip_decay=10.0) == pytest.approx(float(loss(clip=1e9)), rel=1e-6)


def test_a_finite_clip_decays_to_a_ratio_of_one():
    """min(ratio A, A) is left of the surrogate."""
    batch = batch_of(4)
    log_ratio = jnp.float32([2, -2, 1, 0])
    batch = replace(batch, old_log_prob=batch.old_log_prob - log_ratio)
    advantage = (batch.advantage - batch.advantage.mean()) / batch.advantage.std()
    expected = -np.minimum(np.exp(log_ratio) * advantage, advantage).mean()
    loss = ppo_loss(NETWORKS.policy, batch, 10, clip=0.2, clip_decay=10.0)
    assert loss == pytest.approx(expected, rel=1e-4)
