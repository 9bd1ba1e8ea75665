"""Episodes of Python environments are played again from seeds and actions, or said not to be."""

import itertools
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium_probes import RandomWalk
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Noise

from etude.environments.backends.episode_log import (
    EpisodeLog,
    EpisodeSeeds,
    array_shapes,
    join_logs,
    split_log,
)
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.in_process import HostLimits


def envs_of(make_env, copies, replay=1000, workers=0, **limits):
    return GymnasiumEnvs(
        make_env, copies, workers, limits=HostLimits(replay=replay, **limits)
    ).vector_env


def played(envs, steps, rng, choices=3):
    """The rows of steps with random actions."""
    count = len(envs.envs)
    return [
        envs.step(rng.integers(choices, size=count).astype(np.int32)).copy() for _ in range(steps)
    ]


@pytest.mark.parametrize(
    ("make_env", "choices"),
    [
        (RandomWalk, 3),
        (partial(RandomWalk, 7), 3),
        (partial(Noise, OBSERVATIONS["nested"], ACTIONS["discrete"]), 3),
        (partial(gymnasium.make, "CartPole-v1", disable_env_checker=True), 2),
    ],
    ids=["endless", "short", "nested", "CartPole"],
)
def test_a_replay_goes_on_as_if_it_had_not_been_stopped(make_env, choices):
    """Wherever it is stopped, also where an episode has just begun, and twice."""
    whole, stopped = envs_of(make_env, 3), envs_of(make_env, 3)
    first = [envs.reset(5) for envs in (whole, stopped)]
    np.testing.assert_array_equal(*first)
    rngs = [np.random.default_rng(0) for _ in range(2)]
    for steps in (0, 1, 13, 30):
        np.testing.assert_array_equal(
            played(whole, steps, rngs[0], choices), played(stopped, steps, rngs[1], choices)
        )
        log = EpisodeLog.from_bytes(stopped.episode_log().to_bytes())
        stopped = envs_of(make_env, 3)
        rows, reasons = stopped.replay(log)
        assert reasons == [""] * 3
        layout = whole.layout
        for i in range(len(layout.leaves)):
            np.testing.assert_array_equal(
                rows.view(layout.dtype)[f"observation{i}"][:, 0], whole.rows[f"observation{i}"]
            )
        again = stopped.episode_log()
        for array, expected in zip(again, log, strict=True):
            np.testing.assert_array_equal(array, expected)
    assert (log.steps == 44).all() and log.actions.dtype == np.uint8


def test_every_episode_has_a_seed_of_its_own():
    seeds = [EpisodeSeeds(seed, copy) for seed, copy in itertools.product((0, 1), (0, 1))]
    drawn = [[each(i) for i in range(200)] for each in seeds]
    assert len({*itertools.chain(*drawn)}) == 800 and max(map(max, drawn)) < 2**31
    backwards = [EpisodeSeeds(1, 1)(i) for i in reversed(range(200))]
    assert backwards[::-1] == drawn[-1]


def test_a_log_is_divided_among_processes_and_joined_again():
    envs = envs_of(partial(RandomWalk, 7), 5)
    envs.reset(0)
    played(envs, 10, np.random.default_rng(0))
    log = envs.episode_log()
    parts = split_log(log, [slice(0, 2), slice(2, 3), slice(3, 5)], envs.layout.action_bytes)
    assert [len(part.seed) for part in parts] == [2, 1, 2]
    assert [len(part.digests) for part in parts] == [8, 4, 8]
    for array, expected in zip(join_logs(parts), log, strict=True):
        np.testing.assert_array_equal(array, expected)
    shapes = array_shapes(5, log.actions.size, log.digests.size)
    assert shapes == [(x.size, x.dtype) for x in log]


def test_a_copy_at_the_start_of_its_episode_has_no_step_to_show():
    """Nor bounds of a step to break, nor a number of one that failed."""

    class FromOne(RandomWalk):
        observation_space = Box(1, np.inf, (2,))

        def reset(self, **options):
            super().reset(**options)
            return np.ones(2, np.float32), {}

        def step(self, action):
            self.time += 1
            return np.ones(2, np.float32), 1.0, self.time == 2, False, {}

    envs = envs_of(FromOne, 2)
    envs.reset(0)
    played(envs, 2, np.random.default_rng(0))
    again = envs_of(FromOne, 2)
    rows, reasons = again.replay(envs.episode_log())
    assert reasons == ["", ""] and again.boundary.notice() == ""
    row = rows.view(again.layout.dtype)[:, 0]
    assert (row["next_observation0"] == 1).all() and not row["terminated"].any()


class Drifts(RandomWalk):
    """Not deterministic given its seed from step 4 on, nor after `resets` resets."""

    lives = itertools.count()

    def __init__(self, at=4):
        super().__init__()
        self.at, self.life = at, next(Drifts.lives)

    def reset(self, **options):
        place, info = super().reset(**options)
        return place + np.float32(self.life * (self.at == 0)), info

    def step(self, action):
        place, *rest = super().step(action)
        return place + np.float32(self.life * (self.time == self.at)), *rest


@pytest.mark.parametrize(("at", "where"), [(0, "the first observation of the ep"), (4, "step 4")])
def test_an_environment_that_is_not_deterministic_is_found_out(at, where):
    """The episode begins anew with the seed of the next, and the others go on."""
    envs = envs_of(partial(Drifts, at), 2)
    envs.reset(0)
    played(envs, 6, np.random.default_rng(0))
    log, again = envs.episode_log(), envs_of(partial(Drifts, at), 2)
    rows, reasons = again.replay(log)
    for reason in reasons:
        assert reason.startswith("the environment is not deterministic given its seed: " + where)
    assert again.episodes == [1, 1] and again.steps == [6, 6] and again.first_steps == [6, 6]
    fresh = RandomWalk().reset(seed=EpisodeSeeds(0, 1)(1))[0]
    observation = rows.view(again.layout.dtype)["observation0"][1, 0]
    np.testing.assert_array_equal(observation, fresh + (again.envs[1].life if at == 0 else 0))
    assert again.replay(again.episode_log())[1] == ["", ""] or at == 0


def test_an_environment_that_fails_in_its_replay_begins_anew():
    class Breaks(RandomWalk):
        broken = False

        def step(self, action):
            if Breaks.broken and self.time == 2:
                raise OSError("the simulator is gone")
            return super().step(action)

    envs = envs_of(Breaks, 1)
    envs.reset(0)
    played(envs, 5, np.random.default_rng(0))
    Breaks.broken = True
    (reason,) = envs_of(Breaks, 1).replay(envs.episode_log())[1]
    assert reason == "step 3 of its replay fails: OSError('the simulator is gone')"


def test_a_longer_episode_than_is_logged_begins_anew_and_takes_no_memory():
    envs = envs_of(RandomWalk, 2, replay=5)
    envs.reset(0)
    played(envs, 5, np.random.default_rng(0))
    assert (envs.episode_log().logged == 5).all()
    played(envs, 5, np.random.default_rng(0))
    log = envs.episode_log()
    assert (log.logged == 0).all() and log.actions.size == log.digests.size == 0
    again = envs_of(RandomWalk, 2, replay=5)
    _, reasons = again.replay(log)
    assert reasons == ["its 10 steps are more than those that are logged (replay_limit)"] * 2
    assert envs_of(RandomWalk, 2, replay=100).replay(log)[1] == reasons
    assert again.episodes == [1, 1] and (again.episode_log().digests.size == 2)


def test_episodes_are_cut_off_at_a_number_of_steps():
    envs = envs_of(RandomWalk, 2, max_episode_steps=4)
    envs.reset(0)
    rows = np.stack(played(envs, 8, np.random.default_rng(0))).view(envs.layout.dtype)[..., 0]
    np.testing.assert_array_equal(rows["truncated"][:, 0], [0, 0, 0, 1] * 2)
    assert not rows["terminated"].any() and envs.episodes == [2, 2]


@pytest.mark.slow
def test_processes_replay_what_one_replays():
    alone, spread = (
        envs_of(partial(RandomWalk, 7), 3),
        envs_of(partial(RandomWalk, 7), 3, workers=2),
    )
    try:
        for envs in (alone, spread):
            envs.reset(3)
        rng = np.random.default_rng(0)
        for _ in range(10):
            actions = rng.integers(3, size=3).astype(np.int32)
            np.testing.assert_array_equal(alone.step(actions), spread.step(actions))
        log = spread.episode_log()
        for array, expected in zip(log, alone.episode_log(), strict=True):
            np.testing.assert_array_equal(array, expected)
        spread.reset(4)
        assert spread.replay(log)[1] == [""] * 3
        actions = np.zeros(3, np.int32)
        np.testing.assert_array_equal(alone.step(actions), spread.step(actions))
    finally:
        spread.close()


def test_an_environment_rests_after_the_episodes_that_count():
    """It is neither stepped nor reset, and shows no step, until the next reset."""
    envs = envs_of(partial(RandomWalk, 3), 2, replay=0, episodes=2)
    for _ in range(2):
        envs.reset(0)
        before = list(envs.steps)
        rows = np.stack(played(envs, 9, np.random.default_rng(0))).view(envs.layout.dtype)[..., 0]
        np.testing.assert_array_equal(rows["terminated"][:, 0], [0, 0, 1, 0, 0, 1, 0, 0, 0])
        assert (rows["reward"][6:] == 0).all() and (rows["reward"][:6] > 0).any()
        assert [now - then for now, then in zip(envs.steps, before, strict=True)] == [6, 6]
        assert envs.episodes == [1, 1]
