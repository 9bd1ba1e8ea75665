"""Targets of another shape than the outputs they are for, which would be broadcast, are refused."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from oracles import choices, experience, reals

from etude.algorithms.actor_critic.actor_critic import ActorCritic
from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.protocol import algorithm
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.trust_region.trpo import TRPO
from etude.algorithms.value.distributional_heads import CategoricalHead
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.naf import NAF
from etude.algorithms.value.pqn import PQN
from etude.algorithms.value.q_learning import QLearning
from etude.algorithms.value.td3 import TD3
from etude.errors import InvalidInput
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace

KEY = jax.random.key(0)
TIME, ENVS, BATCH = 4, 2, 3
REPLAYED = {
    "hidden": (2,),
    "batch_size": BATCH,
    "capacity": 8,
    "rollout_length": TIME,
    "warmup_steps": 0,
    "gradient_steps": 1,
}
ROLLED = {"hidden": (2,), "rollout_length": TIME}
BOX, CHOICES = Box((1,), low=-1.0, high=1.0), Discrete(2)


def of_another_rank(target):
    return target[..., 0] if target.ndim > 1 else target[..., None]


def estimates_wrongly(cls):
    """The algorithm, but with targets of another rank."""

    @algorithm
    class Mistaken(cls):
        def estimate_target(self, *arguments):
            return of_another_rank(super().estimate_target(*arguments))

    return Mistaken


LEARNERS = {
    "dqn": (estimates_wrongly(DQN)(**REPLAYED), CHOICES, (BATCH,), (BATCH, 1)),
    "categorical": (
        estimates_wrongly(DQN)(head=CategoricalHead(5), **REPLAYED),
        CHOICES,
        (BATCH,),
        (BATCH, 5),
    ),
    "naf": (estimates_wrongly(NAF)(**REPLAYED), BOX, (BATCH, 1), (BATCH,)),
    "td3": (estimates_wrongly(TD3)(**REPLAYED), BOX, (BATCH, 1), (BATCH,)),
    "sac": (estimates_wrongly(SAC)(**REPLAYED), CHOICES, (BATCH, 1), (BATCH,)),
    "pqn": (estimates_wrongly(PQN)(**ROLLED, batch_size=4), CHOICES, (TIME,), (TIME, ENVS)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_both_shapes_and_the_method_are_named(name):
    learner, action, target, output = LEARNERS[name]
    spec = EnvironmentSpec(Box((3,)), action, ENVS)
    draw = choices(2) if action is CHOICES else reals(1)
    state = jax.eval_shape(partial(learner.init, spec=spec), KEY)
    message = f"estimate_target gives targets of shape {target} for outputs of shape {output}"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        jax.eval_shape(learner.update, state, experience(0, TIME, ENVS, action=draw), KEY)


def test_a_table_is_held_to_it_too():
    learner = estimates_wrongly(QLearning)()
    spec = EnvironmentSpec(Discrete(3), CHOICES, ENVS)
    rollout = experience(0, TIME, ENVS, action=choices(2))
    state = learner.init(KEY, spec)
    seen = jnp.zeros((TIME, ENVS), jnp.int32)
    rollout = replace(rollout, observation=seen, next_observation=seen)
    with pytest.raises(InvalidInput, match=r"of shape \(2, 1\) for outputs of shape \(2,\)"):
        jax.eval_shape(learner.update, state, rollout, KEY)


@pytest.mark.parametrize("field", ["advantage", "value_target"])
@pytest.mark.parametrize("cls", [ActorCritic, PPO, TRPO])
def test_advantages_and_targets_of_values_are_held_to_it(cls, field, monkeypatch):
    learner = cls(**ROLLED, **({} if cls is ActorCritic else {"batch_size": 4}))
    place = "etude.algorithms.common.on_policy."
    # what a method of one's own may make of the batch, before samples or one sequence are made
    name = "to_sequence" if cls is ActorCritic else "to_samples"
    monkeypatch.setattr(
        place + name,
        lambda algorithm, experience, batch: replace(
            batch
            if cls is ActorCritic
            else jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), batch),
            **{field: jnp.zeros((4, 2, 1) if cls is ActorCritic else (8, 1))},
        ),
    )
    spec = EnvironmentSpec(Box((3,)), CHOICES, ENVS)
    state = jax.eval_shape(partial(learner.init, spec=spec), KEY)
    rollout = experience(0, TIME, ENVS, action=choices(2))
    with pytest.raises(InvalidInput, match="compute_advantages gives targets of shape"):
        jax.eval_shape(learner.update, state, rollout, KEY)
