"""Estimates beside what followed: against counts that are known, and where the truth is that
nothing is worth anything."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.heads import ScalarHead
from etude.environments import probes
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.protocol import StepResult
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.spaces import Box, Discrete
from etude.struct import replace, struct
from etude.studies.overestimation import measure_overestimation, values_and_returns
from etude.training import pure_train

KEY = jax.random.key(0)


def judged(environment, discount):
    """(estimate, return, q of each count) of a network as it was drawn."""
    dqn = DQN(hidden=(4,), discount=discount, capacity=64)
    state = jax.jit(partial(dqn.init, spec=environment.spec))(KEY)
    told, followed = jax.jit(partial(values_and_returns, dqn, environment))(state, KEY)
    return float(told), float(followed), np.asarray(state.q(jnp.arange(6.0)[:, None])).max(-1)


@pytest.mark.slow
def test_returns_are_those_of_whole_episodes_and_estimates_those_of_the_actions_taken():
    told, followed, q = judged(JaxEnvs(probes.Counter(length=6), 4), 0.9)
    assert followed == pytest.approx(
        np.mean([(1 - 0.9 ** (6 - n)) / 0.1 for n in range(6)]), rel=1e-4
    )
    assert told == pytest.approx(q.mean(), rel=1e-4)


@pytest.mark.slow
def test_where_an_episode_is_cut_off_only_steps_with_their_horizon_ahead_count():
    """Reward 1 for ever is worth 1 / (1 - γ), less what is beyond the horizon; a return cut off
    sooner would be worth less."""
    _, followed, _ = judged(JaxEnvs(TimeLimit(probes.TimeLimited(), 80), 4), 0.9)
    assert 9.9 <= followed <= 10
    _, followed, _ = judged(JaxEnvs(TimeLimit(probes.TimeLimited(), 20), 4), 0.9)
    assert np.isnan(followed)


@struct
class NoisyArms:
    """Ten actions, each paying a normal number around zero, for ever: every value is zero."""

    observation_space = Box((1,))
    action_space = Discrete(10)

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, state, action, key):
        return state, StepResult(state, jax.random.normal(key), jnp.bool_(False), jnp.bool_(False))


@pytest.mark.system
def test_the_largest_of_noisy_estimates_is_too_large_and_double_targets_less_so():
    environment = JaxEnvs(TimeLimit(NoisyArms(), 50), 8)
    dqn = DQN(
        learning_rate=1e-2,
        discount=0.9,
        hidden=(32,),
        batch_size=64,
        capacity=4_000,
        warmup_steps=400,
        head=ScalarHead("squared"),
        target_interval=20,
        exploration=EpsilonGreedy(final_epsilon=1.0),
    )

    def largest(double):
        def of(key):
            return (
                pure_train(replace(dqn, double=double), environment, key, 400)[0]
                .algorithm_state.q(jnp.zeros(1))
                .max()
            )

        return jax.jit(jax.vmap(of))(jax.random.split(KEY, 4)).mean()

    single, double = largest(False), largest(True)
    assert single > 1 and double < 0.7 * single


@pytest.mark.slow
def test_one_measurement_draws_and_writes_what_it_found(tmp_path):
    dqn = DQN(
        hidden=(8,),
        batch_size=16,
        capacity=1_000,
        warmup_steps=100,
        rollout_length=20,
        gradient_steps=5,
        discount=0.9,
    )
    directory, found = measure_overestimation(
        "CartPole-v1", 2_000, seeds=2, out=tmp_path / "out", algorithm=dqn
    )
    assert Image.open(directory / "overestimation.png").size == (1440, 840)
    written = json.loads((directory / "overestimation.json").read_text())
    for name in ("single", "double"):
        assert np.shape(written[name]["estimates"]) == np.shape(written[name]["returns"]) == (2, 20)
        assert written[name]["steps"][-1] == 2_000
        bias = np.mean(np.subtract(written[name]["estimates"], written[name]["returns"])[:, 15:])
        assert written[name]["bias"] == pytest.approx(bias) == pytest.approx(found[name]["bias"])
    with pytest.raises(InvalidInput, match="holds a measurement already"):
        measure_overestimation("CartPole-v1", 2_000, seeds=2, out=tmp_path / "out", algorithm=dqn)
    with pytest.raises(InvalidInput, match="seeds is 0"):
        measure_overestimation("CartPole-v1", 2_000, seeds=0)
