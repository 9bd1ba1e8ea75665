"""All probes as one environment, so that one program, `vmap`ped over their numbers, trains on every
one of them."""

from functools import partial

import jax
import jax.numpy as jnp

from etude.environments import probes
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import Box, Discrete
from etude.struct import static, struct
from etude.training import pure_train

KINDS = [
    probes.ConstantValue,
    probes.ValueFromObservation,
    probes.Discounting,
    probes.ActionToReward,
    probes.ObservationTimesAction,
    probes.TimeLimited,
]
CONSTANT, SEEN, DISCOUNTING, ACTION, BOTH, LIMITED = range(len(KINDS))
LIMIT = 5  # steps after which an episode is cut off; all but one kind end by themselves before


@struct
class Chosen:
    """The probe with number `which`; the observation is one number for all of them."""

    which: jax.Array
    action_space: Discrete | Box = static(probes.DISCRETE)
    observation_space = Box((1,))

    def reset(self, key):
        return jax.lax.switch(self.which, [kind(self.action_space).reset for kind in KINDS], key)

    def step(self, state, action, key):
        steps = [kind(self.action_space).step for kind in KINDS]
        return jax.lax.switch(self.which, steps, state, action, key)


@partial(jax.jit, static_argnames=("action_space", "num_envs", "iterations"))
def learned(algorithm, action_space, num_envs, iterations):
    """The algorithm's states after training on every probe, with a leading [probe], and each one's
    last metrics."""

    def one(which, key):
        environment = JaxEnvs(TimeLimit(Chosen(which, action_space), LIMIT), num_envs)
        training, tallies = pure_train(algorithm, environment, key, iterations)
        return training.state, jax.tree.map(lambda x: x[-1], tallies)

    return jax.vmap(one)(jnp.arange(len(KINDS)), jax.random.split(jax.random.key(0), len(KINDS)))


def of(states, which):
    """The state of one probe."""
    return jax.tree.map(lambda x: x[which], states)
