"""What is said of a run: of budgets that are no whole iterations, of early stops, of results."""

import math

import numpy as np
import pytest

import etude
from etude.reporting.statistics import summarize_returns
from etude.runs.display import RunProgress, cut_off_rows, evaluation_rows, run_headline
from etude.runs.job_progress import ProgressEvent
from etude.runs.options import RunOptions
from etude.runs.run import latest_return
from etude.runs.stopping import EarlyStop
from etude.runs.train import resolve_settings


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
