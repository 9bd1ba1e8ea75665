"""A warning where no episode of training ends."""

from types import SimpleNamespace

import numpy as np
import pytest

from etude.runs.endless_episodes import EndlessEpisodes


def warnings_of(episodes, kind="id", plays=True, first_step=0):
    """What is said after each 800 steps of one of two copies, in which so many episodes ended."""
    settings = SimpleNamespace(plays=plays, num_envs=2, environment_kind=kind)
    endless = EndlessEpisodes(settings, first_step)
    return [
        endless.warning(SimpleNamespace(steps=1600 * i, metrics={"episodes": np.array(ended)}))
        for i, ended in enumerate(episodes, 1)
    ]


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("id", "--options max_episode_steps=1000"),
        ("factory", "gymnasium.wrappers.TimeLimit(env, 1000)"),
        ("jax", "TimeLimit(environment, 1000)"),
    ],
)
def test_it_is_said_once_with_what_to_do(kind, remedy):
    said = warnings_of([0, 0, 0, 0], kind)
    assert [bool(text) for text in said] == [False, False, True, False]
    assert said[2].startswith("no episode has ended in 2,400 steps of each copy, ")
    assert said[2].endswith(remedy)


def test_nothing_is_said_where_episodes_end_or_nobody_plays():
    assert not any(warnings_of([0, 1, 0, 0, 0, 0]))
    assert not any(warnings_of([[0, 0], [0, 3], [0, 0], [0, 0]]))
    assert not any(warnings_of([0, 0, 0, 0], plays=False))
    assert not any(warnings_of([0, 0, 0, 0], first_step=4000))
