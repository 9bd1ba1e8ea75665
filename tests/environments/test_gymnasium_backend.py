"""Gymnasium inside the compiled loop: what crosses is what the simulators said, and what fails is named."""
from functools import partial

import gymnasium
import gymnasium_probes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.environments.gymnasium_backend import Gymnasium
from etude.errors import EnvironmentFault
from etude.rollout import reset, rollout
from etude.training import call

gymnasium_probes.register()


class Echo(gymnasium.Env):
    """Its observation tells what action it was given, in every kind of space at once; `fail_at` names a step to fail in."""
    observation_space = gymnasium.spaces.Dict({
        "real": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64), "choice": gymnasium.spaces.Discrete(5, start=3),
        "pair": gymnasium.spaces.Tuple((gymnasium.spaces.MultiBinary(3), gymnasium.spaces.MultiDiscrete([4, 6], start=[1, 2]))),
        "picture": gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8)})

    def __init__(self, action_space, fail_at=0, how="raise"):
        self.action_space, self.fail_at, self.how, self.time, self.seen = action_space, fail_at, how, 0, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def observe(self):
        t = self.time
        return {"real": np.array([t, -t], np.float64), "choice": np.int64(3 + t % 5),
                "pair": (np.array([t % 2, 0, 1], np.int8), np.array([1 + t % 4, 2 + t % 6])),
                "picture": np.full((2, 2, 3), t % 256, np.uint8)}

    def step(self, action):
        self.time += 1
        self.seen.append(action)
        observation, reward = self.observe(), float(self.time)
        if self.time == self.fail_at:
            if self.how == "raise":
                raise ZeroDivisionError("off the table")
            if self.how == "nan reward":
                reward = np.nan
            if self.how == "nan observation":
                observation["real"][1] = np.nan
            if self.how == "shape":
                observation["real"] = np.zeros((1, 2))
        return observation, reward, self.time % 7 == 0, self.time % 5 == 0, {}


DISCRETE = gymnasium.spaces.Discrete(3, start=4)


def follow(environment, policy, steps, key=0):
    """The transitions [time, env, ...] of `steps` steps."""
    def run(key):
        key_reset, key_play = jax.random.split(key)
        return rollout(environment, policy, reset(environment, key_reset), key_play, steps)[1]
    return call(environment, jax.jit(run), jax.random.key(key))


def constant(action):
    return lambda observation, memory, key: (action, memory)


def test_no_stored_successor_is_another_episodes_first_observation():
    environment = Gymnasium(partial(gymnasium.make, "etude-probes/Counter-v0", disable_env_checker=True), 50)
    experience = follow(environment, constant(jnp.zeros(50, jnp.int32)), 2000)                 # 10^5 steps
    observation, successor = (np.asarray(x).reshape(2000, 50) for x in (experience.observation, experience.next_observation))
    assert (successor == observation + 1).all()
    after = np.asarray(experience.done)[:-1]
    assert after.sum() > 1000 and (observation[1:][after] == 0).all()
    assert (observation[1:][~after] == successor[:-1][~after]).all()


def test_every_kind_of_observation_crosses_intact():
    environment = Gymnasium(partial(Echo, DISCRETE), 3)
    experience = follow(environment, constant(jnp.zeros(3, jnp.int32)), 30)
    t = np.arange(30)[:, None] + np.zeros((1, 3), int)
    for seen, t in ((experience.observation, t), (experience.next_observation, t + 1)):
        assert seen["picture"].dtype == jnp.uint8
        np.testing.assert_array_equal(seen["real"], np.stack([t, -t], -1))
        np.testing.assert_array_equal(seen["choice"], t % 5)
        np.testing.assert_array_equal(seen["pair"][0], np.stack([t % 2, 0 * t, 0 * t + 1], -1))
        np.testing.assert_array_equal(seen["pair"][1], np.stack([t % 4, t % 6], -1))
        np.testing.assert_array_equal(seen["picture"], np.broadcast_to((t % 256)[..., None, None, None], (30, 3, 2, 2, 3)))
    np.testing.assert_array_equal(experience.reward, t)
    np.testing.assert_array_equal(experience.terminated, t % 7 == 0)
    np.testing.assert_array_equal(experience.truncated, t % 5 == 0)


@pytest.mark.parametrize(("space", "chosen", "given"), [
    (gymnasium.spaces.Discrete(3, start=4), 2, 6),
    (gymnasium.spaces.Box(np.array([0.0, -4.0]), np.array([10.0, 4.0]), dtype=np.float64), [0.5, -0.5], [7.5, -2.0]),
    (gymnasium.spaces.Box(0, 10, (2,), np.float32), [3.0, -3.0], [10.0, 0.0]),
    (gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32), [3.0, -3.0], [3.0, -3.0]),
    (gymnasium.spaces.MultiDiscrete([3, 4], start=[1, 10]), [2, 0], [3, 10]),
    (gymnasium.spaces.MultiBinary(2), [1, 0], [1, 0])])
def test_actions_reach_the_simulator_in_its_own_terms(space, chosen, given):
    environment = Gymnasium(partial(Echo, space), 2)
    dtype = environment.spec.action.zeros().dtype
    follow(environment, constant(jnp.broadcast_to(jnp.asarray(chosen, dtype), (2, *np.shape(chosen)))), 1)
    for simulator in environment.copies.simulators:
        (seen,) = simulator.seen
        np.testing.assert_allclose(seen, given, rtol=1e-6)
        assert space.contains(seen)


def test_it_is_gymnasium_stepped_by_hand():
    environment = Gymnasium(partial(gymnasium.make, "CartPole-v1", disable_env_checker=True), 2)

    def policy(observation, memory, key):
        return (observation[:, 2] > 0).astype(jnp.int32), memory
    experience = follow(environment, policy, 300)
    for i in range(2):
        simulator = gymnasium.make("CartPole-v1")
        simulator.reset()
        simulator.unwrapped.state = np.asarray(experience.observation)[0, i].astype(np.float64)
        observation, checked = simulator.unwrapped.state, 0
        for t in range(300):
            np.testing.assert_allclose(experience.observation[t, i], observation, atol=1e-4)
            observation, reward, terminated, truncated, _ = simulator.step(int(experience.observation[t, i, 2] > 0))
            np.testing.assert_allclose(experience.next_observation[t, i], observation, atol=1e-4)
            assert (reward, terminated, truncated) == tuple(
                np.asarray(x)[t, i] for x in (experience.reward, experience.terminated, experience.truncated))
            checked += 1
            if terminated or truncated:
                break
        assert checked > 20


def test_a_reset_with_the_same_key_plays_the_same_again():
    environment = Gymnasium(partial(gymnasium.make, "CartPole-v1", disable_env_checker=True), 3)

    def policy(observation, memory, key):
        return jax.random.randint(key, (3,), 0, 2), memory
    first, again, other = (follow(environment, policy, 100, key) for key in (1, 1, 2))
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True))
    assert (np.asarray(first.observation) != np.asarray(other.observation)).any()
    starts = np.asarray(first.observation)[0]
    assert len(np.unique(starts, axis=0)) == 3, "copies have seeds of their own"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("how", "words"), [
    ("raise", ("ZeroDivisionError", "off the table")), ("nan reward", ("reward is NaN",)),
    ("nan observation", ("observation is NaN",)), ("shape", ("(1, 2)", "(2,)", "real"))])
def test_what_fails_names_the_copy_and_its_step(how, words, workers):
    environment = Gymnasium(partial(Echo, DISCRETE, 11, how), 2, workers)
    with pytest.raises(EnvironmentFault) as fault:
        follow(environment, constant(jnp.zeros(2, jnp.int32)), 30)
    for word in ("copy 0", "step 11", *words):
        assert word in str(fault.value)
    if how == "raise" and not workers:
        assert isinstance(fault.value.__cause__, ZeroDivisionError)
    environment.close()
