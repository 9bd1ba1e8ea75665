"""Each probe has the values it says it has, and stays within its spaces."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium_probes import register

from etude.data.transition import Transition
from etude.environments import probes
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.probes import CONTINUOUS, DISCRETE, TARGET
from etude.environments.wrappers.time_limit import TimeLimit
from etude.spaces import space_to_gymnasium

DISCOUNT = 0.9
COPIES, STEPS = 16, 60
PROBES = [
    probes.ConstantValue,
    probes.ValueFromObservation,
    probes.Discounting,
    probes.ActionToReward,
    probes.ObservationTimesAction,
    probes.Counter,
    probes.TimeLimited,
]


def live(environment, policy=None, steps=STEPS):
    """Experience [time, env] under `policy`, a function of observation and key, or under random
    actions."""

    def random(observation, key):
        if environment.action_space == DISCRETE:
            return jax.random.randint(key, (COPIES,), 0, 2)
        return jax.random.uniform(key, (COPIES, 1), minval=-1.0)

    def step(carry, key):
        state, observation = carry
        key_action, key_step = jax.random.split(key)
        action = (policy or random)(observation, key_action)
        state, following, outcome = copies.step(state, action, key_step)
        transition = Transition(
            observation,
            action,
            outcome.reward,
            outcome.next_observation,
            outcome.terminated,
            outcome.truncated,
        )
        return (state, following), transition

    copies = JaxEnvs(environment, COPIES)
    key_reset, key_steps = jax.random.split(jax.random.key(0))
    return jax.tree.map(
        np.asarray,
        jax.jit(
            lambda: jax.lax.scan(step, copies.reset(key_reset), jax.random.split(key_steps, steps))[
                1
            ]
        )(),
    )


def returns(experience):
    """Discounted return from every step, [time, env], of episodes that all ended by termination at
    the last step."""
    total, column = np.zeros(COPIES), []
    for t in reversed(range(len(experience.reward))):
        total = experience.reward[t] + DISCOUNT * np.where(experience.terminated[t], 0, total)
        column.append(total)
    return np.array(column[::-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "action_space"),
    [
        *zip(PROBES, [DISCRETE, CONTINUOUS] * 4, strict=False),
        (probes.ActionToReward, DISCRETE),
        (probes.ObservationTimesAction, CONTINUOUS),
    ],
)
def test_probes_stay_within_their_spaces(probe, action_space):
    environment = probe(action_space=action_space)
    experience = live(environment)
    space = space_to_gymnasium(environment.observation_space)
    for observation in (experience.observation, experience.next_observation):
        assert observation.dtype == np.float32
        assert all(space.contains(x) for x in observation.reshape(-1, 1))
    assert experience.reward.dtype == np.float32 and experience.reward.shape == (STEPS, COPIES)
    assert not experience.truncated.any()
    assert space_to_gymnasium(action_space).contains(np.asarray(action_space.zeros()))


def test_constant_value():
    experience = live(probes.ConstantValue())
    assert experience.terminated.all() and (experience.reward == 1).all()
    assert (experience.observation == experience.next_observation).all()


@pytest.mark.slow
def test_value_from_observation():
    experience = live(probes.ValueFromObservation())
    assert experience.terminated.all()
    np.testing.assert_array_equal(experience.reward, experience.observation[..., 0])
    np.testing.assert_array_equal(experience.next_observation, experience.observation)
    assert abs(experience.reward.mean()) < 5 / np.sqrt(experience.reward.size)
    assert set(np.unique(experience.observation)) == {-1, 1}


def test_discounting():
    experience = live(probes.Discounting())
    expected = np.where(experience.observation[..., 0] == 0, DISCOUNT, 1)
    np.testing.assert_allclose(returns(experience), expected)
    np.testing.assert_array_equal(experience.terminated, experience.observation[..., 0] == 1)
    np.testing.assert_array_equal(experience.next_observation, experience.observation + 1)
    assert (experience.observation[::2] == 0).all() and (experience.observation[1::2] == 1).all()


def test_action_to_reward():
    experience = live(probes.ActionToReward())
    assert experience.terminated.all()
    np.testing.assert_array_equal(experience.reward, np.where(experience.action == 1, 1, -1))
    assert len(np.unique(experience.action)) == 2

    experience = live(probes.ActionToReward(action_space=CONTINUOUS))
    np.testing.assert_allclose(
        experience.reward, -((experience.action[..., 0] - TARGET) ** 2), rtol=1e-6
    )
    best = live(
        probes.ActionToReward(action_space=CONTINUOUS), lambda *_: jnp.full((COPIES, 1), TARGET)
    )
    assert (best.reward == 0).all()


@pytest.mark.slow
def test_observation_times_action():
    experience = live(probes.ObservationTimesAction())
    assert experience.terminated.all()
    for sign in (-1, 1):
        for action in (0, 1):
            here = (experience.observation[..., 0] == sign) & (experience.action == action)
            assert here.any() and (experience.reward[here] == sign * (1 if action else -1)).all()

    environment = probes.ObservationTimesAction(action_space=CONTINUOUS)
    experience = live(environment)
    np.testing.assert_allclose(
        experience.reward,
        -((experience.action[..., 0] - TARGET * experience.observation[..., 0]) ** 2),
        rtol=1e-6,
    )
    assert (live(environment, lambda observation, _: TARGET * observation).reward == 0).all()


@pytest.mark.parametrize("length", [1, 10])
def test_counter(length):
    experience = live(probes.Counter(length))
    np.testing.assert_array_equal(
        experience.observation[..., 0].T, [np.arange(STEPS) % length] * COPIES
    )
    np.testing.assert_array_equal(experience.next_observation, experience.observation + 1)
    np.testing.assert_array_equal(
        experience.terminated, experience.next_observation[..., 0] == length
    )
    left = length - experience.observation[..., 0].astype(float)
    np.testing.assert_allclose(returns(experience), (1 - DISCOUNT**left) / (1 - DISCOUNT))


@pytest.mark.parametrize("limit", [1, 5])
def test_time_limited(limit):
    """The fixed point of v = r + discount v(next), where the next counts and where it does not."""
    experience = live(TimeLimit(probes.TimeLimited(), limit))
    assert not experience.terminated.any() and (experience.reward == 1).all()
    np.testing.assert_array_equal(
        experience.truncated.T, [np.arange(1, STEPS + 1) % limit == 0] * COPIES
    )
    assert (experience.observation == 0).all() and (experience.next_observation == 0).all()

    def fixed_point(stop):
        return experience.reward.mean() / (1 - DISCOUNT * (1 - stop).mean())

    assert fixed_point(experience.terminated) == pytest.approx(1 / (1 - DISCOUNT))
    assert fixed_point(experience.done) == pytest.approx(1 / (1 - DISCOUNT * (1 - 1 / limit)))
    assert fixed_point(experience.done) < fixed_point(experience.terminated)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, environment",
    [("Counter", probes.Counter()), ("TimeLimited", TimeLimit(probes.TimeLimited(), 5))],
)
def test_gymnasium_probes_are_the_jax_ones(name, environment):
    register()
    register()  # twice is as good as once
    env = gymnasium.make(f"etude-probes/{name}-v0")
    check_env(env.unwrapped, skip_render_check=True)
    assert space_to_gymnasium(environment.observation_space) == env.observation_space
    assert space_to_gymnasium(environment.action_space) == env.action_space
    experience = jax.tree.map(lambda x: x[:, 0], live(environment))
    observation, _ = env.reset(seed=0)
    for t in range(STEPS):
        np.testing.assert_array_equal(experience.observation[t], observation)
        observation, reward, terminated, truncated, _ = env.step(int(experience.action[t]))
        np.testing.assert_array_equal(experience.next_observation[t], observation)
        assert experience.reward[t] == reward
        assert (experience.terminated[t], experience.truncated[t]) == (terminated, truncated)
        if terminated or truncated:
            observation, _ = env.reset()
