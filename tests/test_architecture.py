"""What holds the parts together: imports point one way, and every algorithm keeps the same promises everywhere."""
import ast
import graphlib
import importlib
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Noise

import etude
from etude.algorithms import ALGORITHMS, algorithm_class, name_of
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
from etude.environments.classic import PORTS
from etude.environments.gymnasium_backend import Gymnasium
from etude.environments.jax_backend import Jax
from etude.environments.probes import CONTINUOUS, ObservationTimesAction
from etude.environments.tabular import Tabular
from etude.errors import InvalidInput
from etude.rollout import blank, reset, rollout
from etude.spaces import Discrete, MultiBinary, MultiDiscrete, Spec, from_gymnasium
from etude.struct import replace, struct
from etude.tabular.mdp import random_mdp
from etude.training import begin, compile_chunk, iteration, over_seeds

SOURCE = Path(etude.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# A module may import from its own floor and those above it in this list; the longest name that fits decides.
FLOORS = {
    "etude": 0, "etude.errors": 0, "etude.struct": 0, "etude.spaces": 0,
    "etude.schedules": 1, "etude.exploration": 1, "etude.linear": 1, "etude.convolution": 1, "etude.networks": 1,
    "etude.noisy": 1, "etude.recurrent": 1, "etude.policies": 1, "etude.second_order": 1, "etude.critics": 1,
    "etude.distributions": 1, "etude.estimators": 1, "etude.tabular": 1,
    "etude.planning": 1,
    "etude.experience": 2, "etude.replay": 2, "etude.environments": 2,
    "etude.rollout": 3, "etude.models": 3,
    "etude.algorithms": 4,
    "etude.training": 5,
    "etude.experiment": 6,
}


def module_of(path):
    parts = ("etude", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_text(), str(path)) for path in FILES}
every_module = pytest.mark.parametrize("module", MODULES)


def floor_of(module):
    names = [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 2)]
    assert module == "etude" or (len(names) > 1 and names[1] in FLOORS), f"{module} has no floor: add it to FLOORS"
    return FLOORS[next(name for name in reversed(names) if name in FLOORS)]


def imports_of(module):
    """The modules of etude that a module imports, anywhere in its file."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "etude")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports {node.module} by a relative name"
            if node.module.split(".")[0] == "etude":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    home = etude._HOME.get(alias.name) if node.module == "etude" else None
                    yield whole if whole in MODULES else f"etude.{home}" if home else node.module


def calls_of(module):
    """The plain names called in a module, with the line."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node.lineno


@every_module
def test_imports_point_to_the_same_floor_or_above(module):
    for imported in imports_of(module):
        assert imported in MODULES, f"{module} imports {imported}, which does not exist"
        assert floor_of(imported) <= floor_of(module), f"{module} imports {imported}, from a floor below its own"


def test_no_imports_go_round():
    graph = {module: set(imports_of(module)) - {module} for module in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@every_module
def test_only_the_experiment_prints_and_opens_files(module):
    if floor_of(module) < 6:
        found = [f"{name} on line {line}" for name, line in calls_of(module) if name in ("print", "open", "input")]
        assert not found, f"{module}: {found}"
        used = {name.split(".")[0] for name in outside_imports(module)}
        assert not used & {"rich", "tyro", "matplotlib", "safetensors", "json", "pathlib", "shutil", "tempfile"}, module


def outside_imports(module):
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@every_module
def test_nothing_in_a_file_can_name_code(module):
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
    assert not {name.split(".")[0] for name in outside_imports(module)} & forbidden
    assert not [name for name, _ in calls_of(module) if name in ("eval", "exec", "compile", "__import__")]
    attributes = {node.attr for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)}
    assert not attributes & {"loads_pickle", "load_pickle", "allow_pickle"}


def test_every_name_at_the_front_door_is_there():
    for name in etude.__all__:
        assert getattr(etude, name) is not None
    assert set(dir(etude)) == set(etude.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        etude.Nonsense  # noqa: B018


def test_what_must_start_fast_starts_without_jax():
    """The package, its errors and tables, and what the workers of slow environments run."""
    code = ("import sys, etude, etude.errors, etude.algorithms, etude.environments.copies, etude.environments.workers; "
            "sys.exit('jax' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Promises of every algorithm

CHOICES, BOX, PROCESS = (Jax(environment, 2) for environment in (
    ObservationTimesAction(), ObservationTimesAction(CONTINUOUS), Tabular(random_mdp(jax.random.key(0), 3, 2, end=0.3))))
EVERY = set(ACTIONS)
REPLAYED = {"hidden": (4,), "batch_size": 4, "capacity": 36, "rollout_length": 3, "warmup_steps": 4, "gradient_steps": 1}
SMALL = {           # name: (algorithm, environment, the kinds of action it takes, of what it learns the first leaf or None)
    "q-learning": (QLearning(rollout_length=2), PROCESS, {"discrete"}, "q"),
    "td": (TD(rollout_length=2, trace_decay=0.5), PROCESS, {"discrete"}, "value"),
    "dqn": (DQN(target_interval=2, **REPLAYED), CHOICES, {"discrete", "bounded", "float64", "integers"}, "q"),
    "rainbow": (Rainbow(target_interval=2, atoms=5, **REPLAYED), CHOICES, {"discrete"}, "q"),
    "pqn": (PQN(hidden=(4,), rollout_length=4, batch_size=4, epochs=1), CHOICES, {"discrete"}, "q"),
    "naf": (NAF(**REPLAYED), BOX, {"bounded", "float64", "integers"}, "q"),
    "td3": (TD3(**REPLAYED), BOX, {"bounded", "float64", "integers"}, "policy"),
    "sac": (SAC(**REPLAYED), BOX, {"discrete", "bounded", "unbounded", "float64", "integers"}, "policy"),
    "reinforce": (Reinforce(hidden=(4,), batch_steps=2, capacity=12, rollout_length=3, value_steps=1), CHOICES, EVERY, "agent"),
    "actor-critic": (ActorCritic(hidden=(4,), rollout_length=4, recurrent="gru", memory_size=4, normalize_observation=True,
                                 value_steps=1, discount_from="start"), CHOICES, EVERY, "agent"),
    "trpo": (TRPO(hidden=(4,), batch_size=3, rollout_length=3, recurrent="lstm", memory_size=4, sequence_length=3,
                  conjugate_steps=2, value_epochs=1, normalize_reward=True), CHOICES, EVERY, "agent"),
    "ppo": (PPO(hidden=(4,), batch_size=4, rollout_length=3, epochs=1, normalize_observation=True, normalize_reward=True),
            CHOICES, EVERY, "agent"),
    "mpc": (MPC("Pendulum-v1", horizon=3, samples=4, iterations=2, elites=2), Jax(PORTS["Pendulum-v1"](), 2),
            {"bounded", "float64", "integers"}, None),
    "mcts": (MCTS("CartPole-v1", simulations=4, horizon=3), Jax(PORTS["CartPole-v1"](), 2), {"discrete"}, None),
}
SETTINGS = {"sarsa": SARSA(), "online-q": OnlineQ(), "fitted-q": FittedQ(), "ddpg": DDPG(),      # of what is in SMALL
            "off-policy-actor-critic": OffPolicyActorCritic(), "off-policy-gradient": OffPolicyGradient(), "a2c": A2C(),
            "natural-gradient": NaturalGradient(), "dual-gradient": DualGradient()}
every_algorithm = pytest.mark.parametrize("name", SMALL)
every_learner = pytest.mark.parametrize("name", [name for name, (*_, learned) in SMALL.items() if learned])
KEYS = jax.random.split(jax.random.key(0), 2)


def test_every_algorithm_of_the_table_is_tested_here():
    assert set(SMALL) | set(SETTINGS) == set(ALGORITHMS)
    for name, algorithm in {**{name: row[0] for name, row in SMALL.items()}, **SETTINGS}.items():
        assert algorithm_class(name) is type(algorithm) and name_of(algorithm) == name
        assert ALGORITHMS[name][2]


def test_an_unknown_algorithm_is_refused_with_near_matches():
    with pytest.raises(InvalidInput, match="no algorithm is called 'pop'; did you mean .*ppo"):
        algorithm_class("pop")
    with pytest.raises(InvalidInput, match="no algorithm is called 'os.system'; .*there are .*dqn, .*ppo"):
        algorithm_class("os.system")
    assert name_of(struct(type("Mine", (), {}))()) == "mine"


@pytest.fixture(scope="module")
def programs():
    """A function from an algorithm's name to (training of two seeds at the start, program of one seed, program of both)."""
    made = {}

    def of(name):
        if name not in made:
            algorithm, environment, _, _ = SMALL[name]
            start = jax.jit(over_seeds(partial(begin, algorithm, environment), KEYS))(KEYS)
            one = jax.tree.map(lambda x: x[0], start)
            compiled = [compile_chunk(algorithm, environment, training, key, 100, 0)
                        for training, key in ((one, KEYS[0]), (start, KEYS))]
            made[name] = (jax.device_get(start), *compiled)
        return made[name]
    return of


def seed_of(trainings, i):
    return jax.tree.map(lambda x: jnp.asarray(x[i]), trainings)


def assert_close(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one, other)


@pytest.mark.parametrize("name", ["dqn", "ppo"])     # each operation is compiled: slow
def test_compiled_is_what_it_computes_uncompiled(name, programs):
    start, alone, _ = programs(name)
    compiled = alone(alone(seed_of(start, 0), KEYS[0], 0, 2), KEYS[0], 2, 3)
    before = jax.device_get(compiled)
    compiled = alone(compiled, KEYS[0], 3, 4)
    with jax.disable_jit():
        plain = iteration(*SMALL[name][:2], jax.tree.map(jnp.asarray, before), KEYS[0], jnp.int32(3))
    assert compiled.tally.updates > 0
    assert_close(jax.device_get(compiled), jax.device_get(plain))


@every_algorithm
def test_many_seeds_in_one_program_are_each_seed_alone(name, programs):
    start, alone, together = programs(name)
    many = jax.device_get(together(jax.tree.map(jnp.asarray, start), KEYS, 0, 5))
    for i in range(2):
        assert_close(seed_of(many, i), jax.device_get(alone(seed_of(start, i), KEYS[i], 0, 5)))


@every_learner
def test_seeds_differ(name, programs):
    """In what they know at the start, in what they see and in what they learn."""
    start, _, together = programs(name)
    after = jax.device_get(together(jax.tree.map(jnp.asarray, start), KEYS, 0, 5))
    learned, tables = SMALL[name][3], SMALL[name][1] is PROCESS
    for training in (after,) if tables else (start, after):                    # no chance is in a table's beginning
        first, second = (jax.tree.leaves(part_of(seed_of(training, i).state, learned))[0] for i in range(2))
        assert (first != second).any() if tables else (first != second).all()
    assert (after.tally.episodes.total_return[0] != after.tally.episodes.total_return[1]).all()


@every_algorithm
def test_resumed_is_uninterrupted_bit_for_bit(name, programs):
    """Through host memory, as through a checkpoint, after any iteration."""
    start, alone, _ = programs(name)
    whole = jax.device_get(alone(seed_of(start, 0), KEYS[0], 0, 7))
    for stop in (1, 4):
        part = jax.device_get(alone(seed_of(start, 0), KEYS[0], 0, stop))
        rest = jax.device_get(alone(jax.tree.map(jnp.asarray, part), KEYS[0], stop, 7))
        jax.tree.map(np.testing.assert_array_equal, rest, whole)


def part_of(state, name):
    """What an algorithm learns, wherever in its state it lies."""
    return getattr(state, name) if hasattr(state, name) else getattr(state.learner, name)


def played(algorithm, environment):
    """(state, stage, experience) of one rollout; weights of zero do, and take no time to draw."""
    state = jax.eval_shape(partial(algorithm.init, spec=environment.spec), KEYS[0])
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)

    def run(key):
        policy = lambda observation, memory, key: algorithm.act(state, observation, memory, key, explore=True)
        return state, *rollout(environment, policy, reset(environment, key, blank(environment, policy)), key, 3)[:2]
    return jax.jit(run)(KEYS[0])


def assert_alike(one, other):
    """The same tree of the same shapes and dtypes."""
    assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(lambda x: (x.shape, x.dtype), other)


@pytest.mark.parametrize("name, observation, action", [
    ("dqn", "nested", "discrete"),
    ("dqn", "box", "bounded"),
    ("sac", "nested", "unbounded"),
    ("td3", "dict", "integers"),
    ("ppo", "nested", "multidiscrete"),
    ("ppo", "dict", "bounded"),
    ("ppo", "image", "multibinary"),
])
def test_spaces_of_every_kind_are_played_on(name, observation, action):
    """Real simulators get actions of their spaces, and an update takes what they tell."""
    environment = Gymnasium(partial(Noise, OBSERVATIONS[observation], ACTIONS[action]), 2)
    state, _, experience = played(SMALL[name][0], environment)
    for simulator in environment.copies.simulators:
        assert len(simulator.given) == 3 and all(simulator.action_space.contains(given) for given in simulator.given)
    assert_alike(jax.eval_shape(SMALL[name][0].update, state, experience, KEYS[0])[0], state)


@every_learner
def test_every_space_it_can_take_is_taken(name):
    """Traced, not run: every shape and dtype of every kind of observation with every kind of action."""
    algorithm, usually, kinds, _ = SMALL[name]
    pairs, usual = 0, next(kind for kind in ACTIONS if kind in kinds)
    for seen, observation in OBSERVATIONS.items():
        for kind, action in ACTIONS.items():
            unlike = seen != "box" and kind != usual
            if kind not in kinds or unlike or (usually is PROCESS and not isinstance(observation, gymnasium.spaces.Discrete)):
                continue
            environment = Gymnasium(partial(Noise, observation, action), 2)
            before = jax.eval_shape(partial(begin, algorithm, environment), KEYS[0])
            after = jax.eval_shape(partial(iteration, algorithm, environment), before, KEYS[0], 0)
            assert_alike(before, after)
            pairs += 1
    assert pairs == (1 if usually is PROCESS else len(OBSERVATIONS) + len(kinds) - 1)


@every_algorithm
def test_what_it_cannot_take_is_refused_by_name(name):
    algorithm, _, taken, _ = SMALL[name]
    for kind, space in ACTIONS.items():
        spec = Spec(from_gymnasium(OBSERVATIONS["box"]), from_gymnasium(space, "action"), 2)
        if kind not in taken:
            with pytest.raises(InvalidInput, match="this environment's (are|actions)|for discrete actions"):
                algorithm.init(KEYS[0], spec)
    kinds = {type(from_gymnasium(space, "action")) for space in ACTIONS.values()}
    assert {Discrete, MultiDiscrete, MultiBinary} < kinds


@every_algorithm
def test_envpool_is_one_kind_of_environment_among_others(name):
    pytest.importorskip("envpool", reason="EnvPool is an extra, without wheels for every platform")
    from etude.environments.envpool_backend import EnvPool
    algorithm, environment, taken, _ = SMALL[name]
    simulator, shape = ("CartPole-v1", (4,)) if "discrete" in taken else ("Pendulum-v1", (3,))
    if environment is PROCESS:
        simulator, shape = "FrozenLake-v1", ()
    state, stage, experience = played(algorithm, EnvPool(simulator, 2))
    assert (stage.episode_length <= 3).all() and experience.observation.shape == (3, 2, *shape)
    assert_alike(jax.eval_shape(algorithm.update, state, experience, KEYS[0])[0], state)


@every_learner
def test_hyperparameters_sweep_in_one_program(name):
    """Floats are traced: a vmap over the learning rate is a sweep."""
    def trained(rate):
        algorithm, environment, _, _ = SMALL[name]
        algorithm = replace(algorithm, learning_rate=rate)
        return iteration(algorithm, environment, begin(algorithm, environment, KEYS[0]), KEYS[0], 0)
    shapes = jax.eval_shape(jax.vmap(trained), jnp.float32([1e-3, 1e-2, 1e-1]))
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(shapes))


def test_every_module_can_be_imported():
    for module in MODULES:
        importlib.import_module(module)
