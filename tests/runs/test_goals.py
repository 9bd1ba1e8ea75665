"""What a run asks of the goals of its environment before anything is written."""

from typing import ClassVar

import jax.numpy as jnp
import pytest
from gymnasium_goals import DisagreeingLine, EndingLine, EndlessLine, Line
from gymnasium_probes import Counter

import etude
from etude.algorithms.assumptions import Assumptions
from etude.algorithms.control.random_policy import Random
from etude.environments.backends.host_goal_reward import HostGoalReward
from etude.environments.goals import GoalReward
from etude.environments.protocol import StepResult
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.runs.options import RunOptions
from etude.runs.train import check_goals, resolve_settings
from etude.spaces import Box, Composite, Discrete
from etude.struct import replace, static, struct


@etude.algorithm
class Reacher:
    """Random actions, of an algorithm that asks for goals."""

    rollout_length: int = static(1)
    learns: ClassVar[bool] = False
    assumes: ClassVar[Assumptions] = Assumptions(goals=True, because_of="hindsight")
    init, act, update = Random.init, Random.act, Random.update


@etude.algorithm
class Offline:
    """The same, of one that does not play."""

    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    assumes: ClassVar[Assumptions] = Assumptions(goals=True)
    init, act, update = Random.init, Random.act, Random.update

    def steps_per_update(self, num_envs):
        return 1


def minus_one(achieved_goal, desired_goal):
    return jnp.float32(-1)


@struct
class Unreachable:
    """A goal that no state is, written in JAX."""

    goal_reward: GoalReward | HostGoalReward | None = static(GoalReward(minus_one))
    observation_space = Composite((Box((1,)), Box((1,))), ("achieved_goal", "desired_goal"))
    action_space = Discrete(2)

    def reset(self, key):
        return (), self._observe()

    def step(self, state, action, key):
        never = jnp.bool_(False)
        return (), StepResult(self._observe(), jnp.float32(-1), never, never)

    def _observe(self):
        return {"achieved_goal": jnp.zeros(1), "desired_goal": jnp.ones(1)}


def settle(environment, **options):
    return resolve_settings(Reacher(), environment, RunOptions(steps=10, **options))


@pytest.mark.parametrize(
    "environment, options, message",
    [
        (DisagreeingLine, {}, "a step of DisagreeingLine had -2.0, so hindsight would learn"),
        (Counter, {}, "Reacher with hindsight takes observations that are a Dict .* they are Box"),
        (
            EndlessLine,
            {"frame_stack": 3},
            "frame_stack is 3, and .*Reacher reaches goals, of which a stack is none; leave it out",
        ),
        (TimeLimit(Unreachable(None), 5), {}, "reward of other goals is not known in this env"),
        (
            Unreachable(HostGoalReward(Line)),
            {"seeds": 2},
            "seeds is 2, and all of them train in one program, since they are on a JAX environment;"
            " the reward of goals of Unreachable is computed in Python, which such a program cannot"
            " call. Train them one by one, with --seeds 1 and another --seed, or give the reward in"
            " JAX with",
        ),
    ],
)
def test_goals_that_cannot_be_learned_from_are_refused_before_anything_is_written(
    tmp_path, environment, options, message
):
    options = dict(steps=10, out=tmp_path / "run", progress=False) | options
    with pytest.raises(InvalidInput, match=message):
        etude.train(Reacher(), environment, **options)
    assert not (tmp_path / "run").exists()


def test_what_fits_is_taken():
    assert settle(TimeLimit(Unreachable(), 5), seeds=2).in_one_program
    assert not settle(EndingLine, seeds=2, num_envs=3).in_one_program


def test_seeds_that_learn_from_a_dataset_call_no_python():
    settings = replace(settle(EndlessLine), algorithm=Offline(), backend="none")
    check_goals(settings)
    with pytest.raises(InvalidInput, match="seeds is 3, .* one program, since they learn from a d"):
        check_goals(replace(settings, seeds=3))


def test_a_run_makes_one_environment_to_try_and_one_for_the_reward():
    made = []

    def make():
        made.append(EndingLine())
        return made[-1]

    settings = settle(make, num_envs=5)
    # one that tells its spaces, one that is tried and one that computes the reward
    assert len(made) == 3 and settings.num_envs == 5
