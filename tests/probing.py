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
        return training.algorithm_state, jax.tree.map(lambda x: x[-1], tallies)

    return jax.vmap(one)(jnp.arange(len(KINDS)), jax.random.split(jax.random.key(0), len(KINDS)))


def of(states, which):
    """The state of one probe."""
    return jax.tree.map(lambda x: x[which], states)


DISCOUNT = 0.8
# the worth of a reward of 1 at every step, for which the limit of five steps is no end
FOREVER = 1 / (1 - DISCOUNT)
OBSERVATIONS = (-1, 0, 1)  # what any of the probes may show
# of any action
VALUES = {
    CONSTANT: {0: 1},
    SEEN: {-1: -1, 1: 1},
    DISCOUNTING: {0: DISCOUNT, 1: 1},
    LIMITED: {0: FOREVER},
}
# right is action 1 for 1 and 0 for -1; in a box the sign times TARGET
SIGNS = {ACTION: {0: 1}, BOTH: {-1: -1, 1: 1}}


@partial(jax.jit, static_argnames=("read", "action_space", "num_envs", "iterations"))
def read_after_training(algorithm, read, action_space, num_envs, iterations):
    """What `read(algorithm, state, observation [1])` says of each probe and observation, a dict of
    [probe, observation, ...].

    And whether all metrics are finite. One program from the first step of training to the last
    number.
    """
    states, tally = learned(algorithm, action_space, num_envs, iterations)
    seen = jnp.float32(OBSERVATIONS)[:, None]
    answers = jax.vmap(
        lambda state: jax.vmap(lambda observation: read(algorithm, state, observation))(seen)
    )(states)
    return answers, jax.tree.reduce(
        jnp.logical_and, jax.tree.map(lambda x: jnp.isfinite(x).all(), tally.metrics)
    )


def asked(table):
    """(probe, observation, what is expected) of each row of VALUES, SIGNS or their like."""
    return [
        (probe, observation, expected)
        for probe, row in table.items()
        for observation, expected in row.items()
    ]


def at(answers, probe, observation):
    """The answer of [probe, observation, ...] there."""
    return answers[probe, OBSERVATIONS.index(observation)]
