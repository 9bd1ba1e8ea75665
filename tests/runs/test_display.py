"""What is said of a run: of budgets that are no whole iterations, of early stops, of results."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import etude
from etude.algorithms.imitation.cloning import AnyHead
from etude.algorithms.imitation.heads.action_head import Context
from etude.kinds import kinds_of
from etude.reporting.statistics import summarize_returns
from etude.runs.display import RunProgress, cut_off_rows, evaluation_rows, run_headline
from etude.runs.job_progress import ProgressEvent
from etude.runs.options import RunOptions
from etude.runs.run import latest_return
from etude.runs.stopping import EarlyStop
from etude.runs.train import resolve_settings
from etude.spaces import Box, Discrete, EnvironmentSpec


def settings_of(**options):
    ppo = etude.PPO(rollout_length=128, batch_size=64)
    return resolve_settings(ppo, "CartPole-v1", RunOptions(num_envs=8, backend="jax", **options))


def test_a_budget_that_is_no_whole_number_of_iterations_is_told_with_both_numbers():
    said = run_headline(settings_of(steps=2_000), "run")
    assert "budget  1,024 of 2,000 steps are trained, the whole iterations of 1,024" in said
    assert not any("budget" in line for line in run_headline(settings_of(steps=2_048), "run"))
    said = run_headline(settings_of(steps=102_400, evaluate_every=10_000), "run")
    rounded = (
        "10,240 steps (10,000 were asked for; iterations are whole) and at the end, 10 episodes"
    )
    assert f"evaluated every {rounded}" in said


def test_the_work_of_seeds_that_stop_early_counts_as_done():
    progress = RunProgress(settings_of(steps=10_240, seeds=3))
    event = ProgressEvent((0,), 4_096, {"x": [1.0]}, True, 2.0, 1.0)
    progress.add(event)
    assert (progress.steps, progress.total) == (4_096, 30_720)
    progress.add(event._replace(stops=(EarlyStop(0, "until", 4_096),)))
    assert (progress.steps, progress.total) == (4_096, 24_576)
    progress.add(event._replace(seeds=(1,), steps=2_048))
    assert progress.rate == 1_024  # of the seed that trains on


def evaluation_of(returns):
    told = {
        "which": "last",
        "cut": 0,
        "max_steps": 9,
        "episodes": 4,
        "explore": False,
        "deterministic": True,
        "environment": "Gymnasium",
    }
    return summarize_returns(returns) | told


@pytest.mark.parametrize(
    ("returns", "explored", "differs"),
    [
        ([[1.0] * 4], 0.5, True),
        ([[1.0] * 4], 0.97, False),
        ([[0.0, 1.0, 0.0, 1.0]], 0.25, False),
        ([[-3.0] * 4, [-2.0] * 4], -9.0, True),
        ([[-3.0] * 4, [-2.0] * 4], -2.9, False),
    ],
    ids=str,
)
def test_a_policy_that_explores_to_another_return_is_told_of(returns, explored, differs):
    """The mode of a policy with even odds earns all, and what it samples a half."""
    rows = dict(evaluation_rows(evaluation_of(returns), {"iqm": explored, "episodes": [12]}))
    assert ("return in training" in rows) is differs
    if differs:
        assert rows["return in training"].startswith(f"{explored:g} in the latest 12 episodes: ")
    assert rows["evaluation"].endswith("deterministic policy")


def test_the_latest_training_return_is_that_of_at_least_twenty_episodes():
    rows = {
        "episodes": np.array([50.0, 15, 0, 5, 1]),
        "episode_return": np.array([9.0, 2, math.nan, 4, 10]),
    }
    mean, episodes = latest_return(rows)
    assert episodes == 21 and mean == pytest.approx((15 * 2 + 5 * 4 + 10) / 21)
    mean, episodes = latest_return({name: column[2:3] for name, column in rows.items()})
    assert episodes == 0 and math.isnan(mean)


def test_episodes_that_were_cut_off_are_counted():
    assert cut_off_rows(0, 100, 30_000) == []
    text = "3 of 100 episodes were cut off at 30,000 steps"
    assert cut_off_rows(3, 100, 30_000) == [("cut off", text)]


@pytest.mark.parametrize(
    ("explore", "is_deterministic", "text"),
    [
        (False, True, "deterministic policy"),
        (False, False, "policy without exploration, which draws at random"),
        (True, True, "stochastic policy"),
        (True, False, "stochastic policy"),
    ],
)
def test_the_table_says_which_policy_was_evaluated(explore, is_deterministic, text):
    deterministic = not explore and is_deterministic
    told = evaluation_of([[1.0] * 4]) | {"explore": explore, "deterministic": deterministic}
    assert dict(evaluation_rows(told))["evaluation"] == f"4 episodes on Gymnasium, {text}"


def uses_its_key(function, *arguments):
    """Whether what a function of a key gives depends on it, by what the compiler keeps of it."""
    jaxpr = jax.make_jaxpr(function)(jax.random.key(0), *arguments).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return used[0]


@pytest.mark.parametrize("head", kinds_of(AnyHead).values(), ids=lambda head: head.__name__)
def test_a_head_says_whether_it_draws_without_exploring(head):
    space = Box((2,), low=(-1.0, -1.0), high=(1.0, 1.0))
    make = lambda key: head().make(key, space, 3, 2, "relu")
    network = jax.eval_shape(make, jax.random.key(0))
    context = Context(jnp.zeros((5, 3)), None)
    act = lambda key, network: head().act(network, context, key, explore=False)
    assert uses_its_key(act, network) is not head().is_deterministic


def test_algorithms_say_whether_they_draw_without_exploring():
    arm = Box((2,), low=(-1.0, -1.0), high=(1.0, 1.0))
    assert not etude.BC(head=etude.Mixture()).is_deterministic(arm)
    assert not etude.DAgger(head=etude.Flow()).is_deterministic(arm)
    for algorithm in (etude.BC(), etude.GAIL(), etude.SQIL()):
        assert algorithm.is_deterministic(arm)
    assert not etude.SQIL(agent=etude.DQN()).is_deterministic(arm)
    for policy, space in (
        (etude.Random(), Discrete(2)),
        (etude.DQN(hidden=(4,)), Discrete(2)),
        (etude.DQN(hidden=(4,)), arm),
    ):
        spec = EnvironmentSpec(Box((3,)), space)
        init = lambda key, policy=policy, spec=spec: policy.init(key, spec)
        state = jax.eval_shape(init, jax.random.key(0))
        act = lambda key, state, policy=policy: policy.act(
            state, jnp.zeros((1, 3)), (), key, False
        )[0]
        assert uses_its_key(act, state) is not policy.is_deterministic(space)
