"""dm_control's environments through Shimmy: the numbers of dm_control, flat, and repeated."""

import gymnasium
import jax
import numpy as np
import pytest

import etude
from etude.environments.registry import env_factory
from etude.environments.wrappers.dm_control import DmControlWrapper, has_dm_control
from etude.errors import InvalidInput

WALKER = "dm_control/walker-walk-v0"
SHORT = {"task_kwargs": {"time_limit": 0.35}}  # s, of 14 steps
with_dm_control = pytest.mark.skipif(
    not has_dm_control(), reason="dm_control is an extra, for Python before 3.13"
)


class Countdown(gymnasium.Env):
    """A Dict of how many steps are left and of a constant; the reward is what is left."""

    dt = 0.05
    observation_space = gymnasium.spaces.Dict(
        {
            "position": gymnasium.spaces.Box(-np.inf, np.inf, (), np.float64),
            "constant": gymnasium.spaces.Box(-np.inf, np.inf, (2, 1), np.float64),
        }
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 5
        return self.observe(), {}

    def step(self, action):
        self.left -= 1
        return self.observe(), np.float64(self.left), self.left == 0, False, {"left": self.left}

    def observe(self):
        return {"position": np.float64(self.left), "constant": np.array([[7.0], [8.0]])}


def test_a_repeated_action_sums_rewards_and_stops_at_the_end():
    env = DmControlWrapper(Countdown(), action_repeat=3)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, [7, 8, 5])  # in the order of the names
    assert observation in env.observation_space and observation.dtype == np.float32
    observation, *told = env.step(np.zeros(1))
    assert observation.tolist() == [7, 8, 2] and told == [4 + 3 + 2, False, False, {"left": 2}]
    observation, *told = env.step(np.zeros(1))
    assert observation.tolist() == [7, 8, 0] and told == [1 + 0, True, False, {"left": 0}]
    assert env.metadata["render_fps"] == pytest.approx(1 / 0.15)


@with_dm_control
def test_steps_are_those_of_dm_control():
    """A whole short episode from the same seed: observations, summed rewards and the time limit."""
    from dm_control import suite

    env = env_factory(WALKER, {"action_repeat": 2, **SHORT})()
    random = np.random.RandomState(4)
    own = suite.load("walker", "walk", task_kwargs={"random": random, **SHORT["task_kwargs"]})
    seen, _ = env.reset(seed=4)
    rng, timestep, steps, over = np.random.default_rng(0), own.reset(), 0, False
    flat = lambda step: np.concatenate(
        [np.ravel(step.observation[name]) for name in ("height", "orientations", "velocity")]
    )
    np.testing.assert_array_equal(seen, np.float32(flat(timestep)))
    while not over:
        action = rng.uniform(-1, 1, 6)
        reward = 0.0
        for _ in range(2):
            timestep = own.step(action)
            reward += timestep.reward
        seen, *told, _ = env.step(action)
        np.testing.assert_array_equal(seen, np.float32(flat(timestep)))
        assert told == [pytest.approx(reward), False, timestep.last()]
        steps, over = steps + 1, told[2]
    assert steps == 7 and timestep.discount == 1  # the time is over, and the future is worth much
    env.close()


@with_dm_control
def test_it_is_an_environment_of_etude():
    environment = etude.make(WALKER, 2, options=SHORT)
    assert environment.spec.observation == etude.spaces.Box((24,))
    assert environment.spec.action.shape == (6,) and environment.spec.id == WALKER
    state, first = environment.reset(jax.random.key(0))
    _, again = environment.reset(jax.random.key(0))
    np.testing.assert_array_equal(first, again)  # so that a resumed run can play an episode again
    assert (np.asarray(first[0]) != np.asarray(first[1])).any()
    for t in range(14):
        state, _, result = environment.step(state, np.zeros((2, 6), np.float32), jax.random.key(t))
    assert result.truncated.all() and not result.terminated.any()
    environment.close()


@with_dm_control
@pytest.mark.parametrize(
    "name, options, message",
    [
        ("dm_control/reach_site_vision-v0", {}, "reach_site_vision-v0 observes pictures, and"),
        ("dm_control/RodentEscapeBowl-v0", {}, "choose one of its suite, dm_control/<domain>-<ta"),
        (WALKER, {"action_repeat": 0}, "action_repeat is 0; it must be at least 1"),
        ("dm_control/walker-wlk-v0", {}, "did you mean dm_control/walker-walk-v0"),
    ],
)
def test_what_it_does_not_take_is_said(name, options, message):
    with pytest.raises(InvalidInput, match=message):
        etude.make(name, options=options)


@with_dm_control
@pytest.mark.system
def test_it_trains_in_worker_processes(tmp_path):
    """Shimmy's own entry of the registry cannot be sent to another process."""
    run = etude.train(
        etude.PPO(hidden=(8,), rollout_length=64, batch_size=32),
        WALKER,
        steps=128,
        num_envs=2,
        workers=2,
        options=SHORT,
        evaluation_episodes=1,
        out=tmp_path / "run",
    )
    assert run.evaluate(1)["episodes"] == 1
