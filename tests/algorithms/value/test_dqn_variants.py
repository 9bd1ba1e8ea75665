"""What grew out of deep Q-learning: heads, streams, noise, priorities, n steps, Boltzmann,
planners, and its three rhythms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from filling import filled
from oracles import choices, experience

from etude.algorithms import registered_name
from etude.algorithms.assumptions import check_spaces
from etude.algorithms.value.boltzmann import Boltzmann
from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.dqn import DQN, OnlineQ
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.fitted_q import FittedQ
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.rainbow import Rainbow
from etude.algorithms.value.td3 import DDPG
from etude.data.replay import prioritized, ring_buffer
from etude.data.replay.prioritized import Prioritized
from etude.environments import probes
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.tabular import Tabular
from etude.errors import InvalidInput
from etude.nn.noisy import NoisyLayers
from etude.planning.planners import CEM
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.struct import replace, validate
from etude.tabular.dynamic_programming import q_iteration
from etude.tabular.mdp import random_mdp
from etude.training import pure_train

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((3,)), Discrete(4), 2)
ARM = EnvironmentSpec(Box((3,)), Box((2,), low=-1.0, high=1.0), 2)
SMALL = DQN(
    hidden=(8,),
    batch_size=8,
    capacity=64,
    rollout_length=4,
    warmup_steps=8,
    gradient_steps=2,
    target_interval=3,
)
VARIANTS = {
    "categorical": {"head": CategoricalHead(21, -6.0, 6.0)},
    "quantile": {"head": QuantileHead(8)},
    "dueling": {"dueling": True},
    "noisy": {"noisy": NoisyLayers(), "exploration": EpsilonGreedy(0.3, 0.3)},
    "prioritized": {"replay": Prioritized(beta=1.0)},
    "boltzmann": {"exploration": Boltzmann(5.0, 5.0)},
    "all": {
        "head": CategoricalHead(21, -6.0, 6.0),
        "dueling": True,
        "noisy": NoisyLayers(),
        "replay": Prioritized(beta=1.0),
        "exploration": EpsilonGreedy(0.3, 0.3),
    },
}


def fresh(dqn, spec=SPEC, target=1):
    """The state before the first step, with weights from NumPy; those of the target from a seed of
    its own."""
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(partial(dqn.init, spec=spec), KEY)
    )
    return replace(zeros, q=filled(lambda: zeros.q), target_q=filled(lambda: zeros.q, target))


transitions = partial(experience, action=choices(4), ends=0.2)


# Values that are known


@pytest.fixture(scope="module")
def process():
    mdp = random_mdp(jax.random.key(3), 4, 2, termination=0.1)
    q, _ = q_iteration(mdp, 0.8)
    return JaxEnvs(Tabular(mdp), 8), np.asarray(q)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("quantile", marks=pytest.mark.slow),
        pytest.param("all", marks=pytest.mark.system),
    ],
)
def test_values_of_a_random_process_are_those_of_dynamic_programming(process, variant):
    environment, exact = process
    settings = {
        "head": ScalarHead("squared"),
        "exploration": EpsilonGreedy(final_epsilon=1.0),
        **VARIANTS[variant],
    }
    dqn = DQN(
        learning_rate=1e-2,
        learning_rate_decay=10_000.0,
        discount=0.8,
        hidden=(16,),
        batch_size=64,
        capacity=16_000,
        warmup_steps=800,
        rollout_length=5,
        gradient_steps=4,
        target_interval=1,
        target_rate=0.05,
        **settings,
    )

    @jax.jit
    def trained(key):
        training, tally = pure_train(dqn, environment, key, 250)
        return training.algorithm_state.q(jnp.arange(4)), tally

    found, tally = trained(KEY)
    np.testing.assert_allclose(found, exact, atol=0.25)  # of values that spread over several
    assert np.ptp(exact) > 1
    assert np.isfinite(tally.metrics["q_loss"]).all()


@pytest.mark.system
def test_multi_step_values_are_learned_where_the_policy_makes_no_difference():
    """Bootstrapping after three steps, past the ends of episodes and of the ring, the counts of a
    counter are exact."""
    dqn = DQN(
        learning_rate=1e-2,
        learning_rate_decay=16_000.0,
        discount=0.9,
        hidden=(32,),
        batch_size=64,
        capacity=800,
        warmup_steps=200,
        n_step=3,
        target_interval=1,
        target_rate=0.05,
        head=ScalarHead("squared"),
        exploration=EpsilonGreedy(final_epsilon=1.0),
    )
    environment = JaxEnvs(probes.Counter(length=6), 4)
    values = jax.jit(
        lambda key: pure_train(dqn, environment, key, 1000)[0].algorithm_state.q(
            jnp.arange(6.0)[:, None]
        )
    )(KEY)
    exact = [(1 - 0.9 ** (6 - n)) / 0.1 for n in range(6)]
    np.testing.assert_allclose(values, np.repeat(np.array(exact)[:, None], 2, 1), atol=0.15)


# Three processes at three speeds


@pytest.mark.slow
def test_online_q_learning_is_a_semi_gradient_step_on_each_transition_as_it_comes():
    """Adam's step on the error from its own values, once for each, against optax by hand."""
    dqn = OnlineQ(
        hidden=(8,), learning_rate=0.01, head=ScalarHead("squared"), max_gradient_norm=1e9
    )
    state = fresh(dqn, replace(SPEC, num_envs=1), target=0)
    update, adam, q = jax.jit(dqn.update), optax.adam(0.01), state.q
    moments = adam.init(q)

    @jax.jit
    def by_hand(q, moments, step):
        """(loss, q, moments) after the step."""
        target = step.reward + dqn.discount * jnp.where(
            step.terminated, 0, q(step.next_observation).max()
        )
        value, gradient = jax.value_and_grad(
            lambda q: (target - q(step.observation)[step.action]) ** 2 / 2
        )(q)
        change, moments = adam.update(gradient, moments)
        return value, optax.apply_updates(q, change), moments

    for i in range(6):
        step = transitions(i, 1, 1)
        state, metrics = update(state, step, jax.random.key(i))
        value, q, moments = by_hand(q, moments, jax.tree.map(lambda x: x[0, 0], step))
        assert metrics["updates"] == 1 and metrics["q_loss"] == pytest.approx(
            float(value), rel=1e-3, abs=1e-6
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), state.q, q)
        jax.tree.map(np.testing.assert_array_equal, state.q, state.target_q)


def test_the_names_are_settings():
    assert registered_name(DQN()) == "dqn" and registered_name(Rainbow()) == "rainbow"
    assert (
        registered_name(OnlineQ(learning_rate=1e-4)) == "online-q"
        and registered_name(FittedQ(discount=0.5)) == "fitted-q"
    )
    assert registered_name(Rainbow(noisy=None)) == "dqn"
    # of a kind, any settings do
    assert registered_name(Rainbow(head=CategoricalHead(11), noisy=NoisyLayers(0.1))) == "rainbow"
    assert registered_name(Rainbow(head=ScalarHead())) == "dqn"
    assert registered_name(DDPG(target_noise=0)) == "ddpg"


# Play


@pytest.mark.parametrize(
    "variant",
    [name if name == "all" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
)
def test_without_exploring_the_best_action_is_taken_and_chance_has_no_part(variant):
    dqn = replace(SMALL, **VARIANTS[variant])
    state = fresh(dqn)
    seen = transitions(0, 50).observation

    @jax.jit
    def play(key):
        return dqn.act(state, seen, (), key, explore=False)[0], state.q(seen)

    (one, values), (other, _) = play(jax.random.key(0)), play(jax.random.key(1))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, np.argmax(values, -1))


def test_boltzmann_play_takes_actions_by_their_values_and_cools():
    dqn = replace(
        SMALL,
        exploration=Boltzmann(initial_temperature=2.0, final_temperature=0.01),
        exploration_steps=100.0,
    )
    state = fresh(dqn)
    seen = np.broadcast_to(transitions(0, 1).observation, (20_000, 3))
    values = np.asarray(state.q(seen[0]), float)
    act = jax.jit(partial(dqn.act, explore=True))
    action, _ = act(state, seen, (), KEY)
    weights = np.exp((values - values.max()) / 2)
    np.testing.assert_allclose(
        np.bincount(action, minlength=4) / 20_000, weights / weights.sum(), atol=0.015
    )
    cold, _ = act(replace(state, steps=np.int32(100)), seen, (), KEY)
    assert (cold == values.argmax()).mean() > 0.9 or np.sort(values)[-2] > values.max() - 0.05


@pytest.mark.slow
def test_noisy_play_explores_by_its_weights_alone():
    dqn = replace(SMALL, noisy=NoisyLayers(sigma=5.0), exploration=EpsilonGreedy(0.0, 0.0))
    state = fresh(dqn)
    seen = transitions(0, 30).observation
    act = jax.jit(partial(dqn.act, explore=True))
    played = np.stack([act(state, seen, (), jax.random.key(i))[0] for i in range(20)])
    assert (played != played[0]).any()
    np.testing.assert_array_equal(act(state, seen, (), jax.random.key(0))[0], played[0])


@pytest.mark.slow
def test_in_a_box_a_wanderer_is_anywhere_and_a_planner_inside():
    dqn = replace(SMALL, exploration=EpsilonGreedy(0.5, 0.5))
    state = fresh(dqn, ARM)
    seen = jnp.broadcast_to(transitions(0, 1).observation, (4000, 3))
    action, _ = jax.jit(partial(dqn.act, explore=True))(state, seen, (), KEY)
    assert action.shape == (4000, 2) and (jnp.abs(action) <= 1).all()
    worth = jax.jit(
        lambda action: state.q.head.mean(
            state.q.outputs_for(jnp.broadcast_to(seen[0], (len(action), 3)), action)
        )
    )
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 41, dtype=np.float32)] * 2), -1).reshape(-1, 2)
    values, top = np.asarray(worth(action)), np.max(worth(grid))
    near = values > top - 0.05 * abs(top) - 0.02
    assert 0.45 < near.mean() < 0.75  # half of the time the best, else anywhere


# Priorities


@pytest.mark.slow
def test_what_surprised_is_drawn_more_often_and_weighs_less():
    dqn = replace(SMALL, replay=Prioritized(alpha=1.0, beta=1.0), learning_rate=1e-8)
    state = jax.jit(partial(dqn.init, spec=SPEC))(KEY)
    rollout = transitions(0, 4, 2)
    rollout.reward[1, 1] = 1000
    update = jax.jit(dqn.update)
    draw = jax.jit(
        lambda state, key: prioritized.sample_indices(state.priorities, state.replay, key, 512, 1.0)
    )
    for i in range(20):
        state, _ = update(state, rollout, jax.random.key(i))
    rows, weight = jax.device_get(draw(state, KEY))
    surprising = np.asarray(state.replay.storage.reward)[rows.time, rows.env] > 500
    assert surprising.mean() > 0.5  # of the rows it is one in eight
    assert weight[surprising].max() < 0.1 and weight.max() == 1


def test_importance_weights_grow_until_they_undo_all_bias():
    """The exponent β goes linearly from its start to 1: w ∝ p⁻ᵝ for the same draws."""
    dqn = replace(SMALL, replay=Prioritized(beta=0.4, beta_steps=100.0))

    @jax.jit
    def weights(state, priorities, steps):
        return dqn.replay.sample_indices(priorities, state.replay, KEY, 8, steps)[1]

    state = jax.jit(partial(dqn.init, spec=SPEC))(KEY)
    state = jax.jit(dqn.store)(state, transitions(0, 4, 2))
    indices = ring_buffer.Indices(*map(np.int32, divmod(np.arange(8), 2)))
    priorities = jax.jit(prioritized.update_priorities)(
        state.priorities, state.replay, indices, np.arange(1, 9, dtype=np.float32), 1.0
    )
    start, middle, end = (np.asarray(weights(state, priorities, n)) for n in (0, 50, 200))
    assert end.min() < 0.6
    np.testing.assert_allclose(start, end**0.4, rtol=1e-5)
    np.testing.assert_allclose(middle, end**0.7, rtol=1e-5)


# Bad input


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"head": CategoricalHead(1)}, "head.num_atoms is 1; it must be at least 2"),
        ({"head": CategoricalHead(v_min=3.0, v_max=1.0)}, "head: v_min 3.0 is not below v_max 1.0"),
        ({"maximizer": CEM(50), "samples": 10}, "elites is 50; of 10 samples"),
        ({"dueling": True, "hidden": ()}, "hidden is empty"),
        (
            {"head": "median"},
            r"head is 'median'; it must be ScalarHead\(...\) or CategoricalHead\(...\) or "
            r"QuantileHead\(...\)",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        validate(DQN(**settings))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dueling": True}, "dqn with dueling takes Discrete actions"),
        ({"exploration": Boltzmann()}, "dqn with Boltzmann exploration takes Discrete"),
    ],
)
def test_what_needs_discrete_actions_is_refused_in_a_box(settings, message):
    with pytest.raises(InvalidInput, match=message):
        check_spaces(replace(SMALL, **settings).assumes, ARM, "dqn")
