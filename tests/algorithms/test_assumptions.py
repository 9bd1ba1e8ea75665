"""Spaces that an algorithm does not take are refused with the way out."""

import math

import jax
import pytest

from etude.algorithms import registered_name
from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.assumptions import EVERY_ACTION, Assumptions, check_spaces, is_kind
from etude.algorithms.policy_gradient.reinforce import Reinforce
from etude.algorithms.protocol import algorithm, init_state
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.q_learning import SARSA
from etude.algorithms.value.td3 import DDPG, TD3
from etude.errors import InvalidInput
from etude.nn.recurrent import GRU
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, MultiBinary, MultiDiscrete

UNBOUNDED = Box((2, 2), low=(-1.0, -math.inf, 0.0, -2.0), high=(1.0, math.inf, math.inf, 2.0))
PAIR = MultiDiscrete((2, 3), (0, 0), (2,))


@pytest.mark.parametrize(
    "algorithm, observation, action, message",
    [
        (
            SARSA(),
            Discrete(3),
            Box((1,)),
            r"sarsa takes Discrete actions, .* are Box\(.*; ppo takes every kind of action",
        ),
        (
            SARSA(),
            Box((2,)),
            Discrete(3),
            r"sarsa keeps a value for each of so many states, .* are Box\(.*; ppo takes every",
        ),
        (SARSA(), PAIR, Discrete(3), "observations are MultiDiscrete"),
        (
            DQN(),
            Discrete(2),
            PAIR,
            "dqn takes Discrete or bounded Box actions, .* are Multi.*; ppo",
        ),
        (
            TD3(),
            Box((3,)),
            UNBOUNDED,
            r"td3 takes bounded Box actions, .*, with elements without bounds: "
            r"action\[0, 1\] in \[-inf, inf\], action\[1, 0\] in \[0.0, inf\]; ppo",
        ),
        (DDPG(), Box((3,)), Box(()), r"ddpg takes .* without bounds: action\[\] in \[-inf, inf\]"),
        (SAC(), Box((3,)), MultiBinary((2,)), "sac takes Discrete or Box actions, .*; ppo"),
        (
            PPO(),
            Box((3,)),
            Composite((Discrete(2), Discrete(3))),
            "ppo takes Discrete, Box, MultiDiscrete or MultiBinary actions, .*; wrap it in one",
        ),
    ],
    ids=range(8),
)
def test_other_spaces_are_refused(algorithm, observation, action, message):
    with pytest.raises(InvalidInput, match=message):
        spec = EnvironmentSpec(observation, action, 1)
        check_spaces(algorithm.assumes, spec, registered_name(algorithm))


def test_a_bounded_box_is_one_with_every_bound():
    bounded = Box((2,), low=0.0, high=1.0)
    assert is_kind(bounded, "bounded Box") and is_kind(bounded, "Box")
    assert is_kind(UNBOUNDED, "Box") and not is_kind(UNBOUNDED, "bounded Box", "Discrete")
    assert all(is_kind(space, *EVERY_ACTION) for space in (UNBOUNDED, Discrete(2), PAIR))


def test_an_algorithm_of_ones_own_declares_what_it_assumes():
    @algorithm
    class Mine:
        rollout_length = 1
        assumes = Assumptions(("MultiBinary",))

    spec = EnvironmentSpec(Box((1,)), MultiBinary((2,)), 1)
    check_spaces(Mine.assumes, spec, "Mine")
    with pytest.raises(InvalidInput, match="Mine takes MultiBinary actions, .* are Discrete"):
        init_state(Mine(), jax.random.key(0), EnvironmentSpec(Box((1,)), Discrete(2), 1))


GOAL = Box((2,))


def dict_of(**parts):
    return Composite(tuple(parts.values()), tuple(parts))


@pytest.mark.parametrize(
    "observation, message",
    [
        (GOAL, r"with hindsight takes .*, and in this environment they are Box\(.*; wrap it, or"),
        (Composite((GOAL, GOAL)), r"they are Composite\("),
        (
            dict_of(achieved_goal=GOAL, observation=GOAL),
            "desired_goal is missing among achieved_goal, observation;",
        ),
        (dict_of(observation=GOAL), "desired_goal and achieved_goal is missing among observation;"),
        (
            dict_of(achieved_goal=Box((3,)), desired_goal=GOAL),
            r"desired_goal has shape \(2,\) and achieved_goal \(3,\);",
        ),
        (dict_of(achieved_goal=Discrete(3), desired_goal=GOAL), r"achieved_goal is Discrete\("),
        (
            dict_of(achieved_goal=GOAL, desired_goal=Box((2,), "int32", 0.0, 9.0)),
            r"desired_goal is Box\(.*int32",
        ),
        (dict_of(achieved_goal=GOAL, desired_goal=Box((4, 2))), r"desired_goal is Box\(.*4, 2"),
    ],
    ids=range(8),
)
def test_observations_without_goals_are_refused(observation, message):
    assumes = Assumptions(goals=True, because_of="hindsight")
    with pytest.raises(InvalidInput, match=message):
        check_spaces(assumes, EnvironmentSpec(observation, Discrete(2), 1), "dqn")
    check_spaces(Assumptions(), EnvironmentSpec(observation, Discrete(2), 1), "dqn")


def test_goals_may_be_of_any_precision():
    double = Box((2,), "float64")
    goals = dict_of(achieved_goal=GOAL, desired_goal=double, observation=Discrete(2))
    check_spaces(Assumptions(goals=True), EnvironmentSpec(goals, Discrete(2), 1), "dqn")


def test_what_an_algorithm_assumes_follows_its_settings():
    assert PPO().assumes.full_observation and not PPO(recurrent=GRU(4)).assumes.full_observation
    assert Reinforce().assumes.episodes and not PPO().assumes.episodes
