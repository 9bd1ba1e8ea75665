"""MBMF: whose actions the policy imitates, and when it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.model_based.mbmf import MBMF, hold_policy, policy_of, with_policy
from etude.algorithms.model_based.pets import PETS
from etude.algorithms.trust_region.ppo import PPO
from etude.data.transition import zeros_like_spec
from etude.errors import InvalidInput
from etude.models.ensemble import Ensemble
from etude.planning.sampling.cem import CEM
from etude.spaces import Box, EnvironmentSpec
from etude.struct import replace

SPEC = EnvironmentSpec(Box((2,)), Box((1,), low=-1.0, high=1.0), num_envs=2)
SMALL = MBMF(
    planning=PETS(
        model=Ensemble(members=1, elites=1, hidden=(2,)),
        planner=CEM(elites=2),
        particles=1,
        horizon=2,
        samples=2,
        iterations=1,
        warmup_steps=6,
        capacity=60,
    ),
    agent=PPO(hidden=(2,), batch_size=6, rollout_length=3, epochs=1),
    planner_steps=12,
    imitation_steps=12,
    value_warmup_steps=6,
)
KEY = jax.random.key(0)


def shapes_filled(make):
    """A state of zeros, which compiles nothing."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(make))


def test_random_actions_from_before_the_first_fit_are_no_labels(monkeypatch):
    """Of a rollout whose steps were labelled with 1, none counts before there is a model."""
    state = shapes_filled(lambda: SMALL.init(KEY, SPEC))
    step = zeros_like_spec(SPEC)
    rollout = jax.tree.map(lambda x: jnp.zeros((3, 2, *x.shape), x.dtype), step)
    memory = shapes_filled(lambda: SMALL.initial_memory(state, SPEC, KEY))
    memory = jax.tree.map(lambda x: jnp.stack([x] * 3), replace(memory, label=jnp.ones((2, 1))))
    metrics = {"heldout_mse": jnp.float32(0), "diverged_plans": jnp.float32(0)}
    monkeypatch.setattr(PETS, "update", lambda self, planning, experience, key: (planning, metrics))
    for num_rows, rows in ((0, 0), (6, 3)):
        model = replace(state.planning.model, num_rows=jnp.int32(num_rows))
        known = replace(state, planning=replace(state.planning, model=model))
        experience = replace(rollout, memory=memory)
        _, labels, _ = SMALL.fit_model(known, experience, jnp.bool_(True), KEY)
        assert labels.inserted == rows
        assert labels.storage.action.sum() == rows * SPEC.num_envs


def test_the_planner_has_a_model_before_its_phase_ends():
    """Rollouts are of six steps, so that the first fit is at six, and at twelve for seven."""
    for planner_steps, warmup_steps in ((6, 6), (12, 7)):
        planning = replace(SMALL.planning, warmup_steps=warmup_steps)
        algorithm = replace(SMALL, planner_steps=planner_steps, planning=planning)
        with pytest.raises(InvalidInput, match=f"no model before step {planner_steps}; give more"):
            algorithm.init(KEY, SPEC)


@pytest.mark.parametrize("agent", [SMALL.agent, SAC(hidden=(2,), warmup_steps=0, capacity=8)])
def test_a_policy_that_is_held_is_the_old_one_and_the_rest_is_new(agent):
    old = shapes_filled(lambda: agent.init(KEY, SPEC))
    new = jax.tree.map(lambda x: x + 1 if jnp.issubdtype(x.dtype, jnp.floating) else x, old)
    held = hold_policy(new, old, is_labelled=jnp.bool_(False))
    jax.tree.map(np.testing.assert_array_equal, policy_of(held), policy_of(old))
    rest_of = lambda state: jax.tree.leaves(
        state.critics if isinstance(agent, SAC) else state.learner.networks.value
    )
    assert all((x == 1).all() for x in rest_of(held))
    put = with_policy(held, policy_of(new))
    jax.tree.map(np.testing.assert_array_equal, policy_of(put), policy_of(new))
