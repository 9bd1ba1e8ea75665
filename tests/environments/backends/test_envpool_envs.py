"""EnvPool inside the compiled loop: true successors, true first observations, ends, and actions in
its own terms."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.environments.classic import CartPole, Pendulum
from etude.environments.registry import env_factory
from etude.errors import InvalidInput
from etude.spaces import space_from_gymnasium

pytest.importorskip("envpool", reason="EnvPool is an extra, without wheels for every platform")

from etude.environments.backends import envpool_envs
from etude.environments.backends.envpool_envs import EnvPoolEnvs, threads_for

KEY = jax.random.key(0)


def play(environment, policy, steps, key=KEY):
    """(observation acted on, action, outcome) [time, env] under `policy`, a function of observation
    and key, in NumPy."""

    def step(carry, key):
        state, observation = carry
        action = policy(observation, key)
        state, following, outcome = environment.step(state, action, key)
        return (state, following), (observation, action, outcome)

    def run():
        key_reset, key_play = jax.random.split(key)
        return jax.lax.scan(step, environment.reset(key_reset), jax.random.split(key_play, steps))[
            1
        ]

    return jax.tree.map(np.asarray, jax.jit(run)())


def random_pushes(observation, key):
    return jax.random.randint(key, observation.shape[:1], 0, 2)


def test_every_successor_is_what_the_dynamics_say():
    """10^4 steps of CartPole; each row's next observation follows from it, also where its episode
    ends."""
    copies, steps = 20, 500
    observation, action, outcome = play(EnvPoolEnvs("CartPole-v1", copies), random_pushes, steps)
    force = jnp.where(action == 1, 10.0, -10.0)[..., None]
    expected = jax.jit(jax.vmap(jax.vmap(CartPole().dynamics)))(observation, force)
    np.testing.assert_allclose(outcome.next_observation, expected, atol=2e-6)
    assert (outcome.reward == 1).all()
    position, angle = np.abs(outcome.next_observation[..., [0, 2]]).transpose(2, 0, 1)
    beyond = np.maximum(position - 2.4, angle - np.radians(12))
    np.testing.assert_array_equal(
        outcome.terminated[np.abs(beyond) > 1e-5], (beyond > 0)[np.abs(beyond) > 1e-5]
    )
    ended = (outcome.terminated | outcome.truncated)[:-1]
    first = np.concatenate([observation[:1].reshape(-1, 4), observation[1:][ended]])
    assert (ended.any(1) & ~ended.all(1)).any()  # rows end apart
    assert (np.abs(first) <= 0.05).all() and len(np.unique(first, axis=0)) == len(first)
    np.testing.assert_array_equal(observation[1:][~ended], outcome.next_observation[:-1][~ended])


def test_a_time_limit_truncates_and_does_not_terminate():
    """CartPole, balanced for as long as it lasts; the value of its last state is still to be
    had."""

    def balance(observation, key):
        return (observation @ jnp.float32([0.1, 0.3, 1, 1]) > 0).astype(jnp.int32)

    observation, _, outcome = play(EnvPoolEnvs("CartPole-v1", 4), balance, 1100)
    np.testing.assert_array_equal(np.flatnonzero(outcome.truncated.all(1)), [499, 999])
    assert outcome.truncated.sum() == 8 and not outcome.terminated.any()
    assert (np.abs(observation[[0, 500, 1000]]) <= 0.05).all()
    assert not np.array_equal(outcome.next_observation[499], observation[500])


@pytest.mark.slow
def test_numbers_reach_the_simulator_scaled():
    """Pendulum takes torques in [-2, 2]; no episode of it terminates, all are truncated after 200
    steps."""

    def torque(observation, key):
        return jax.random.uniform(key, (observation.shape[0], 1), minval=-1.5, maxval=1.5)

    observation, action, outcome = play(EnvPoolEnvs("Pendulum-v1", 3), torque, 410)

    def successor(observation, action):
        cosine, sine, rate = observation
        angle, rate = Pendulum().dynamics(
            jnp.stack([jnp.arctan2(sine, cosine), rate]), 2 * jnp.clip(action, -1, 1)
        )
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), rate])

    expected = jax.jit(jax.vmap(jax.vmap(successor)))(observation, action)
    # at its largest rate EnvPool 1.2.5 turns further than Gymnasium
    slow = np.abs(expected[..., 2]) < 8
    np.testing.assert_allclose(outcome.next_observation[slow], expected[slow], atol=2e-5)
    assert slow.mean() > 0.9 and outcome.reward.dtype == np.float32 and (outcome.reward <= 0).all()
    assert not outcome.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(outcome.truncated.all(1)), [199, 399])
    assert outcome.truncated.sum() == 6


def test_choices_are_observed_as_one_number():
    environment = EnvPoolEnvs("FrozenLake-v1", 3)
    observation, _, outcome = play(environment, lambda observation, key: jnp.full(3, 2), 40)
    assert environment.spec.observation.zeros().shape == () and observation.shape == (40, 3)
    assert observation.dtype == np.int32 and (observation[0] == 0).all()
    ended = (outcome.terminated | outcome.truncated)[:-1]
    assert (observation[1:][ended] == 0).all() and (outcome.next_observation[:-1][ended] != 0).any()


@pytest.mark.slow
def test_every_reset_starts_all_copies_afresh_and_none_repeats():
    environment = EnvPoolEnvs("CartPole-v1", 3)
    starts = [play(environment, random_pushes, 4)[0][0] for _ in range(3)]
    assert (np.abs(starts) <= 0.05).all() and len(np.unique(starts)) == 36
    assert environment.replayer is None and not environment.functional


@pytest.mark.slow
def test_a_pool_follows_from_its_seed():
    first, again, other = (
        play(EnvPoolEnvs("CartPole-v1", 3, seed), random_pushes, 60)[0] for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).all()


def test_spaces_are_those_of_the_judge():
    """Whatever is trained on EnvPool is evaluated on Gymnasium, so shapes, kinds and dtypes must be
    the same."""
    listed = [
        name for name in gymnasium.registry if envpool_envs.supports(name) and "/" not in name
    ]
    assert {"CartPole-v1", "Pendulum-v1", "FrozenLake-v1"} <= set(listed)
    assert "Blackjack-v1" not in listed  # one array of numbers there, a Tuple of choices here
    import envpool

    for name in listed:
        try:
            env = env_factory(name)()
        except InvalidInput:  # what it needs is not installed
            continue
        spec = envpool.make_spec(name)
        for here, there in (
            (env.observation_space, spec.gymnasium_observation_space),
            (env.action_space, spec.gymnasium_action_space),
        ):
            assert type(here) is type(there), name
            for part in ("shape", "dtype", "n", "start"):
                assert getattr(here, part, None) == getattr(there, part, None), name
        assert space_from_gymnasium(env.action_space) == space_from_gymnasium(
            spec.gymnasium_action_space
        ), name
        env.close()


def test_what_it_does_not_have_is_not_listed(monkeypatch):
    assert not envpool_envs.supports("Nothing-v0") and not envpool_envs.supports(
        "etude-tests/Noise-v0"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not envpool_envs.supports("CartPole-v1")


def test_numbers_of_64_bits_are_refused():
    import envpool

    name = next(
        name for name in envpool.list_all_envs() if name.startswith(("Ant-", "HalfCheetah-"))
    )
    assert not envpool_envs.supports(name)
    with pytest.raises(InvalidInput, match=f"{name} on EnvPool has float64.*--backend gymnasium"):
        EnvPoolEnvs(name, 1)


def test_light_environments_leave_cores_to_the_learner(monkeypatch):
    monkeypatch.setattr(envpool_envs, "num_cores", lambda: 8)
    assert (threads_for("CartPole-v1"), threads_for("LunarLander-v3")) == (4, 8)
    monkeypatch.setattr(envpool_envs, "num_cores", lambda: 1)
    assert (threads_for("CartPole-v1"), threads_for("LunarLander-v3")) == (1, 1)
