"""The copycat: told what was done before, a clone does it again (de Haan et al., 2019).

At each step a hidden side is one of two, and stays with probability 0.95. Observed are a cue, which
shows the side with probability 0.8, and the action before; the expert, who knows the side, names
it. So in the expert's episodes the action before is right in 0.95 of the steps, and the cue in 0.8:
the likeliest action there is to do the same again, which a clone then does for ever, and is right
half of the time.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.dagger import DAgger
from etude.algorithms.protocol import Expert, Outside, init_state
from etude.data.dataset import make_dataset
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.protocol import StepResult
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.spaces import Box, Discrete
from etude.training import pure_train

KEY = jax.random.key(0)
STAYS, SHOWN = 0.95, 0.8


class Sides:
    """Observed are the cue and the action before, -1 or 1, and for the expert alone the side."""

    observation_space, action_space = Box((3,)), Discrete(2)

    def observe(self, key, side, action):
        cue = jnp.where(jax.random.bernoulli(key, SHOWN), side, -side)
        return jnp.float32([cue, action, side])

    def reset(self, key):
        key_side, key_before, key_cue = jax.random.split(key, 3)
        side = jax.random.rademacher(key_side, (), float)
        before = jax.random.rademacher(key_before, (), float)
        return (side, 0), self.observe(key_cue, side, before)

    def step(self, state, action, key):
        side, time = state
        key_side, key_cue = jax.random.split(key)
        action = 2.0 * action - 1
        reward = (action == side) * 1.0
        side = jnp.where(jax.random.bernoulli(key_side, STAYS), side, -side)
        observation = self.observe(key_cue, side, action)
        return (side, time + 1), StepResult(observation, reward, False, time == 99)


class Knows(NamedTuple):
    """The expert."""

    needs: tuple = ()

    def initial_memory(self, state, spec, key):
        return ()

    def act(self, state, observation, memory, key, explore):
        return (observation[:, 2] > 0).astype(jnp.int32), memory


class Sees(eqx.Module):
    """A network of some numbers of the observation alone."""

    mlp: eqx.nn.MLP
    count: int = eqx.field(static=True)

    def __call__(self, observation: Any) -> Any:
        return self.mlp(observation[: self.count])


def sees_the_action_before(key, space):
    return Sees(eqx.nn.MLP(2, 8, 16, 1, key=key), 2)


def sees_the_cue(key, space):
    return Sees(eqx.nn.MLP(1, 8, 16, 1, key=key), 1)


SIDES = JaxEnvs(Sides(), 20)


def play(policy, state, key, steps):
    """The experience of a policy."""
    bound = bind_policy(policy, state, SIDES)
    return rollout(SIDES, bound, init_rollout_state(SIDES, bound, key), key, steps)[1]


@pytest.fixture(scope="module")
def shown():
    """Twenty episodes of the expert."""
    experience = jax.device_get(jax.jit(lambda key: play(Knows(), (), key, 100))(KEY))
    column = lambda x: list(np.swapaxes(x, 0, 1))
    last = experience.next_observation[-1:]
    return make_dataset(
        SIDES.spec,
        observations=column(np.concatenate([experience.observation, last])),
        actions=column(experience.action),
        rewards=column(experience.reward),
        terminations=column(experience.terminated),
        truncations=column(experience.truncated),
    )


def share_right(policy, state):
    """How often the policy does what the expert would."""
    return float(jax.jit(lambda state: play(policy, state, KEY, 1_000).reward.mean())(state))


def clone(torso, dataset):
    """(share of its steps that are right, its loss) of a clone of these episodes."""
    bc = BC(torso=torso, learning_rate=1e-2, gradient_steps=500, normalize_observation=None)

    @jax.jit
    def fit(dataset):
        outside = Outside(dataset)
        return bc.update(init_state(bc, KEY, SIDES.spec, outside), (), KEY, outside)

    state, metrics = fit(dataset)
    return share_right(bc, state), float(metrics["nll"])


@pytest.mark.system
def test_a_clone_that_sees_what_was_done_before_does_it_again(shown):
    """Its loss is the smaller one, and it is right half of the time; a clone that sees the cue
    alone is right as often as that."""
    right, loss = clone(sees_the_action_before, shown)
    right_of_cue, loss_of_cue = clone(sees_the_cue, shown)
    assert loss < 0.6 * loss_of_cue
    assert right == pytest.approx(0.5, abs=0.05)
    assert right_of_cue == pytest.approx(SHOWN, abs=0.03)


@pytest.mark.system
def test_labels_in_its_own_states_teach_it_to_follow_the_cue():
    dagger = DAgger(
        torso=sees_the_action_before,
        beta=0.0,
        learning_rate=1e-2,
        gradient_steps=300,
        rollout_length=100,
        normalize_observation=None,
    )
    outside = Outside(expert=Expert((), Knows()))
    train = jax.jit(lambda key: pure_train(dagger, SIDES, key, 6, outside)[0].algorithm_state)
    assert share_right(dagger, train(KEY)) >= SHOWN - 0.03
