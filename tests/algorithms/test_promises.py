"""The promises that every algorithm keeps, on every environment."""

from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Noise

from etude.algorithms import ALGORITHMS, algorithm_class, registered_name
from etude.algorithms.actor_critic.actor_critic import A2C, ActorCritic
from etude.algorithms.actor_critic.sac import SAC, OffPolicyActorCritic
from etude.algorithms.control.mcts import MCTS
from etude.algorithms.control.mpc import MPC
from etude.algorithms.policy_gradient.reinforce import OffPolicyGradient, Reinforce
from etude.algorithms.trust_region.ppo import PPO, DualGradient
from etude.algorithms.trust_region.trpo import TRPO, NaturalGradient
from etude.algorithms.value.dqn import DQN, FittedQ, OnlineQ, Rainbow
from etude.algorithms.value.naf import NAF
from etude.algorithms.value.pqn import PQN
from etude.algorithms.value.q_learning import SARSA, QLearning
from etude.algorithms.value.td import TD
from etude.algorithms.value.td3 import DDPG, TD3
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS
from etude.environments.probes import CONTINUOUS, ObservationTimesAction
from etude.environments.tabular import Tabular
from etude.errors import InvalidInput
from etude.rollout import rollout
from etude.spaces import Discrete, EnvironmentSpec, MultiBinary, MultiDiscrete, space_from_gymnasium
from etude.struct import replace, struct
from etude.tabular.mdp import random_mdp
from etude.training import (
    behavior_policy,
    compile_chunk,
    init_rollout,
    init_train_state,
    train_iteration,
    vmap_over_seeds,
)

CHOICES, BOX, PROCESS = (
    JaxEnvs(environment, 2)
    for environment in (
        ObservationTimesAction(),
        ObservationTimesAction(CONTINUOUS),
        Tabular(random_mdp(jax.random.key(0), 3, 2, end=0.3)),
    )
)
EVERY = set(ACTIONS)
REPLAYED = {
    "hidden": (4,),
    "batch_size": 4,
    "capacity": 36,
    "rollout_length": 3,
    "warmup_steps": 4,
    "gradient_steps": 1,
}
# name: (algorithm, environment, the kinds of action it takes, of what it learns the first leaf or
# None)
SMALL = {
    "q-learning": (QLearning(rollout_length=2), PROCESS, {"discrete"}, "q"),
    "td": (TD(rollout_length=2, trace_decay=0.5), PROCESS, {"discrete"}, "value"),
    "dqn": (
        DQN(target_interval=2, **REPLAYED),
        CHOICES,
        {"discrete", "bounded", "float64", "integers"},
        "q",
    ),
    "rainbow": (Rainbow(target_interval=2, num_atoms=5, **REPLAYED), CHOICES, {"discrete"}, "q"),
    "pqn": (PQN(hidden=(4,), rollout_length=4, batch_size=4, epochs=1), CHOICES, {"discrete"}, "q"),
    "naf": (NAF(**REPLAYED), BOX, {"bounded", "float64", "integers"}, "q"),
    "td3": (TD3(**REPLAYED), BOX, {"bounded", "float64", "integers"}, "policy"),
    "sac": (
        SAC(**REPLAYED),
        BOX,
        {"discrete", "bounded", "unbounded", "float64", "integers"},
        "policy",
    ),
    "reinforce": (
        Reinforce(hidden=(4,), batch_steps=2, capacity=12, rollout_length=3, value_steps=1),
        CHOICES,
        EVERY,
        "agent",
    ),
    "actor-critic": (
        ActorCritic(
            hidden=(4,),
            rollout_length=4,
            recurrent="gru",
            memory_size=4,
            normalize_observation=True,
            value_steps=1,
            discount_from="start",
        ),
        CHOICES,
        EVERY,
        "agent",
    ),
    "trpo": (
        TRPO(
            hidden=(4,),
            batch_size=3,
            rollout_length=3,
            recurrent="lstm",
            memory_size=4,
            sequence_length=3,
            conjugate_steps=2,
            value_epochs=1,
            normalize_reward=True,
        ),
        CHOICES,
        EVERY,
        "agent",
    ),
    "ppo": (
        PPO(
            hidden=(4,),
            batch_size=4,
            rollout_length=3,
            epochs=1,
            normalize_observation=True,
            normalize_reward=True,
        ),
        CHOICES,
        EVERY,
        "agent",
    ),
    "mpc": (
        MPC("Pendulum-v1", horizon=3, samples=4, iterations=2, elites=2),
        JaxEnvs(PORTS["Pendulum-v1"](), 2),
        {"bounded", "float64", "integers"},
        None,
    ),
    "mcts": (
        MCTS("CartPole-v1", simulations=4, horizon=3),
        JaxEnvs(PORTS["CartPole-v1"](), 2),
        {"discrete"},
        None,
    ),
}
# of what is in SMALL
SETTINGS = {
    "sarsa": SARSA(),
    "online-q": OnlineQ(),
    "fitted-q": FittedQ(),
    "ddpg": DDPG(),
    "off-policy-actor-critic": OffPolicyActorCritic(),
    "off-policy-gradient": OffPolicyGradient(),
    "a2c": A2C(),
    "natural-gradient": NaturalGradient(),
    "dual-gradient": DualGradient(),
}
every_algorithm = pytest.mark.parametrize("name", SMALL)
every_learner = pytest.mark.parametrize(
    "name", [name for name, (*_, learned) in SMALL.items() if learned]
)
KEYS = jax.random.split(jax.random.key(0), 2)


def test_every_algorithm_of_the_table_is_tested_here():
    assert set(SMALL) | set(SETTINGS) == set(ALGORITHMS)
    for name, algorithm in {**{name: row[0] for name, row in SMALL.items()}, **SETTINGS}.items():
        assert algorithm_class(name) is type(algorithm) and registered_name(algorithm) == name
        assert ALGORITHMS[name][2]


def test_an_unknown_algorithm_is_refused_with_near_matches():
    with pytest.raises(InvalidInput, match="no algorithm is called 'pop'; did you mean .*ppo"):
        algorithm_class("pop")
    with pytest.raises(
        InvalidInput, match="no algorithm is called 'os.system'; .*there are .*dqn, .*ppo"
    ):
        algorithm_class("os.system")
    assert registered_name(struct(type("Mine", (), {}))()) == "mine"


@pytest.fixture(scope="module")
def programs():
    """A function from an algorithm's name to (training of two seeds at the start, program of one
    seed, program of both)."""
    made = {}

    def of(name):
        if name not in made:
            algorithm, environment, _, _ = SMALL[name]
            both = jax.jit(
                vmap_over_seeds(partial(init_train_state, algorithm, environment), KEYS)
            )(KEYS)
            one = jax.tree.map(lambda x: x[0], both)
            compiled = [
                compile_chunk(algorithm, environment, training, key, 100, 0)
                for training, key in ((one, KEYS[0]), (both, KEYS))
            ]
            made[name] = (jax.device_get(both), *compiled)
        return made[name]

    return of


def seed_of(trainings, i):
    return jax.tree.map(lambda x: jnp.asarray(x[i]), trainings)


def assert_close(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one, other)


@pytest.mark.parametrize("name", ["dqn", "ppo"])  # each operation is compiled: slow
def test_compiled_is_what_it_computes_uncompiled(name, programs):
    first, alone, _ = programs(name)
    compiled = alone(alone(seed_of(first, 0), KEYS[0], 0, 2), KEYS[0], 2, 3)
    before = jax.device_get(compiled)
    compiled = alone(compiled, KEYS[0], 3, 4)
    with jax.disable_jit():
        plain = train_iteration(
            *SMALL[name][:2], jax.tree.map(jnp.asarray, before), KEYS[0], jnp.int32(3)
        )
    assert compiled.metric_sums.updates > 0
    assert_close(jax.device_get(compiled), jax.device_get(plain))


@every_algorithm
def test_many_seeds_in_one_program_are_each_seed_alone(name, programs):
    first, alone, together = programs(name)
    many = jax.device_get(together(jax.tree.map(jnp.asarray, first), KEYS, 0, 5))
    for i in range(2):
        assert_close(seed_of(many, i), jax.device_get(alone(seed_of(first, i), KEYS[i], 0, 5)))


@every_learner
def test_seeds_differ(name, programs):
    """In what they know at the start, in what they see and in what they learn."""
    begun, _, together = programs(name)
    after = jax.device_get(together(jax.tree.map(jnp.asarray, begun), KEYS, 0, 5))
    learned, tables = SMALL[name][3], SMALL[name][1] is PROCESS
    for training in (after,) if tables else (begun, after):  # no chance is in a table's beginning
        first, second = (
            jax.tree.leaves(part_of(seed_of(training, i).state, learned))[0] for i in range(2)
        )
        assert (first != second).any() if tables else (first != second).all()
    assert (
        after.metric_sums.episodes.total_return[0] != after.metric_sums.episodes.total_return[1]
    ).all()


@every_algorithm
def test_resumed_is_uninterrupted_bit_for_bit(name, programs):
    """Through host memory, as through a checkpoint, after any iteration."""
    first, alone, _ = programs(name)
    whole = jax.device_get(alone(seed_of(first, 0), KEYS[0], 0, 7))
    for stop in (1, 4):
        part = jax.device_get(alone(seed_of(first, 0), KEYS[0], 0, stop))
        rest = jax.device_get(alone(jax.tree.map(jnp.asarray, part), KEYS[0], stop, 7))
        jax.tree.map(np.testing.assert_array_equal, rest, whole)


def part_of(state, name):
    """What an algorithm learns, wherever in its state it lies."""
    return getattr(state, name) if hasattr(state, name) else getattr(state.learner, name)


def played(algorithm, environment, state, key):
    """(stage, experience) of one rollout."""
    return rollout(
        environment,
        behavior_policy(algorithm, state),
        init_rollout(algorithm, environment, state, key),
        key,
        3,
    )[:2]


def improved(algorithm, environment, state, key):
    """The state after an update from one rollout."""
    return algorithm.update(state, played(algorithm, environment, state, key)[1], key)[0]


def shape_of_state(algorithm, environment):
    return jax.eval_shape(partial(algorithm.init, spec=environment.spec), KEYS[0])


def blank_state(algorithm, environment):
    """Weights of zero do to play, and take no time to draw."""
    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), shape_of_state(algorithm, environment)
    )


def assert_alike(one, other):
    """The same tree of the same shapes and dtypes."""
    assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(
        lambda x: (x.shape, x.dtype), other
    )


@pytest.mark.parametrize(
    "name, observation, action",
    [
        ("dqn", "nested", "discrete"),
        ("dqn", "box", "bounded"),
        ("sac", "nested", "unbounded"),
        ("td3", "dict", "integers"),
        ("ppo", "nested", "multidiscrete"),
        ("ppo", "dict", "bounded"),
        ("ppo", "image", "multibinary"),
    ],
)
def test_spaces_of_every_kind_are_played_on(name, observation, action):
    """Real simulators get actions of their spaces, and an update takes what they tell."""
    environment = GymnasiumEnvs(partial(Noise, OBSERVATIONS[observation], ACTIONS[action]), 2)
    algorithm = SMALL[name][0]
    state = blank_state(algorithm, environment)
    _, experience = jax.jit(partial(played, algorithm, environment))(state, KEYS[0])
    for simulator in environment.copies.simulators:
        assert len(simulator.given) == 3 and all(
            simulator.action_space.contains(given) for given in simulator.given
        )
    assert_alike(jax.eval_shape(algorithm.update, state, experience, KEYS[0])[0], state)


@every_learner
def test_every_space_it_can_take_is_taken(name):
    """Traced, not run: every kind of action, and an observation of which every kind is a part."""
    algorithm, usually, kinds, _ = SMALL[name]
    if hasattr(algorithm, "recurrent"):
        # a memory sees features, whatever they are of
        algorithm = replace(algorithm, recurrent="none")
    usual, *others = [kind for kind in ACTIONS if kind in kinds]
    seen = (
        OBSERVATIONS["discrete"]
        if usually is PROCESS
        else gymnasium.spaces.Tuple(list(OBSERVATIONS.values()))
    )
    for observation, kind in [(seen, usual), *((OBSERVATIONS["box"], kind) for kind in others)]:
        environment = GymnasiumEnvs(partial(Noise, observation, ACTIONS[kind]), 2)
        before = shape_of_state(algorithm, environment)
        assert_alike(
            before, jax.eval_shape(partial(improved, algorithm, environment), before, KEYS[0])
        )


@every_algorithm
def test_what_it_cannot_take_is_refused_by_name(name):
    algorithm, _, taken, _ = SMALL[name]
    for kind, space in ACTIONS.items():
        spec = EnvironmentSpec(
            space_from_gymnasium(OBSERVATIONS["box"]), space_from_gymnasium(space, "action"), 2
        )
        if kind not in taken:
            with pytest.raises(
                InvalidInput, match="this environment's (are|actions)|for discrete actions"
            ):
                algorithm.init(KEYS[0], spec)
    kinds = {type(space_from_gymnasium(space, "action")) for space in ACTIONS.values()}
    assert {Discrete, MultiDiscrete, MultiBinary} < kinds


@every_algorithm
def test_envpool_is_one_kind_of_environment_among_others(name):
    pytest.importorskip("envpool", reason="EnvPool is an extra, without wheels for every platform")
    from etude.environments.backends.envpool_envs import EnvPoolEnvs

    algorithm, environment, taken, _ = SMALL[name]
    simulator, shape = ("CartPole-v1", (4,)) if "discrete" in taken else ("Pendulum-v1", (3,))
    if environment is PROCESS:
        simulator, shape = "FrozenLake-v1", ()
    environment = EnvPoolEnvs(simulator, 2)
    state = blank_state(algorithm, environment)
    stage, experience = jax.jit(partial(played, algorithm, environment))(state, KEYS[0])
    assert (stage.episode_length <= 3).all() and experience.observation.shape == (3, 2, *shape)
    assert_alike(jax.eval_shape(algorithm.update, state, experience, KEYS[0])[0], state)


@every_learner
def test_hyperparameters_sweep_in_one_program(name):
    """Floats are traced: a vmap over the learning rate is a sweep."""
    algorithm, environment, _, _ = SMALL[name]

    def trained(rate, state):
        return improved(replace(algorithm, learning_rate=rate), environment, state, KEYS[0])

    shapes = jax.eval_shape(
        jax.vmap(trained, (0, None)),
        jnp.float32([1e-3, 1e-2, 1e-1]),
        shape_of_state(algorithm, environment),
    )
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(shapes))
