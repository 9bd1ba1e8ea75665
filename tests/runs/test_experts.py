"""Experts: a name, a run or a function acts as it should, and what is no expert is refused."""

import contextlib
import sys
from functools import partial
from typing import ClassVar

import gymnasium
import gymnasium_spaces
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import programs_kept

import etude
from etude.algorithms.protocol import Outside, algorithm
from etude.data.transition import flatten_time, zeros_like_spec
from etude.environments.probes import Counter
from etude.environments.sources import environment_source
from etude.errors import ExpertFault, InvalidInput
from etude.runs.experts import expert_name, make_expert
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import train_job
from etude.runs.options import RunOptions
from etude.runs.run import create_run, load
from etude.runs.train import resolve_settings
from etude.spaces import (
    Box,
    Composite,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    MultiDiscrete,
    space_from_gymnasium,
    to_environment_action,
)
from etude.training import progress, run_compiled

KEY = jax.random.key(0)
CART_POLE = environment_source("CartPole-v1").outline(1, "gymnasium").spec
LAKE = environment_source("FrozenLake-v1").outline(1, "gymnasium").spec


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def spec_of(observation="box", action="discrete"):
    """The spec of a Gymnasium environment with these spaces."""
    return EnvironmentSpec(
        space_from_gymnasium(gymnasium_spaces.OBSERVATIONS[observation]),
        space_from_gymnasium(gymnasium_spaces.ACTIONS[action], "action"),
    )


def expert_of(expert, spec, environment="etude-tests/Noise-v0"):
    return make_expert(expert, environment, spec, KEY)


def actions_of(expert, observation, key=KEY):
    """The actions of an expert without memory, in the policy's units."""

    @jax.jit
    def act(expert, observation, key):
        return expert.policy.act(expert.state, observation, (), key, False)[0]

    return np.asarray(run_compiled(act, expert, observation, key))


# A name


def test_a_name_is_that_algorithm_with_its_preset_for_the_environment():
    expert = expert_of("random", CART_POLE, "CartPole-v1")
    assert expert.policy == etude.Random()
    actions = actions_of(expert, np.zeros((64, 4), np.float32))
    assert set(actions) == {0, 1}

    pendulum = environment_source("Pendulum-v1").outline(1, "gymnasium").spec
    expert = expert_of("mpc", pendulum, "Pendulum-v1")
    assert type(expert.policy) is etude.MPC and expert.state.model is not None
    own = etude.MPC(horizon=3)
    assert expert_of(own, pendulum, "Pendulum-v1").policy == own


def test_the_heuristic_lands_what_it_is_written_for():
    spec = environment_source("LunarLander-v3").outline(1, "gymnasium").spec
    expert = expert_of("heuristic", spec, "LunarLander-v3")
    falling = np.float32([[0, 0.2, 0, -1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(actions_of(expert, falling), [2, 0])  # the main engine; nothing


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run of two seeds on FrozenLake-v1, trained for a moment."""
    settings = resolve_settings(
        etude.QLearning(), "FrozenLake-v1", RunOptions(steps=400, evaluation_episodes=10)
    )
    run = create_run(settings, tmp_path_factory.mktemp("runs") / "q-learning")
    for _ in train_job(settings, *run.jobs, InterruptHandler(), pytest.fail):
        pass
    return run.directory


@pytest.mark.parametrize("form", [str, lambda path: path, load], ids=["str", "path", "run"])
def test_a_run_acts_as_its_own_policy(run, form):
    expert = expert_of(form(run), LAKE, "FrozenLake-v1")
    (state,) = load(run).states()
    rng = np.random.default_rng(0)
    q = np.float32(rng.normal(size=np.shape(state.q)))  # of which no two are equal
    assert expert.policy == load(run).settings.algorithm
    np.testing.assert_array_equal(expert.state.q, state.q)
    expert = etude.struct.replace(expert, state=etude.struct.replace(state, q=q))
    np.testing.assert_array_equal(actions_of(expert, np.arange(16)), q.argmax(-1))
    assert expert_name(form(run)) == str(run)


def test_a_run_of_other_spaces_is_refused(run):
    with pytest.raises(
        InvalidInput,
        match=r"the observation space of the run .*q-learning, on FrozenLake-v1, is "
        r"Discrete\(n=16.*, and that of CartPole-v1 is Box\(.*; give a run on this environment, "
        "with the same frame stack and action masks",
    ):
        expert_of(run, CART_POLE, "CartPole-v1")
    taxi = EnvironmentSpec(LAKE.observation, CART_POLE.action)
    with pytest.raises(InvalidInput, match=r"the action space .* that of the environment is Disc"):
        expert_of(run, taxi)


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    settings = resolve_settings(etude.QLearning(), "FrozenLake-v1", RunOptions(steps=400))
    create_run(settings, tmp_path / "run")
    with pytest.raises(InvalidInput, match="holds no checkpoint yet; train it with: etude resume"):
        expert_of(tmp_path / "run", LAKE, "FrozenLake-v1")


def make_lake():
    return gymnasium.make("FrozenLake-v1")


def test_a_run_on_an_object_acts_on_that_object(tmp_path, run):
    """A run on an id acts on an object of the same spaces too."""
    assert expert_of(run, LAKE, make_lake).policy == load(run).settings.algorithm
    settings = resolve_settings(etude.QLearning(), make_lake, RunOptions(steps=400))
    create_run(settings, tmp_path / "run")
    with pytest.raises(InvalidInput, match="holds no checkpoint yet"):  # it is found and loaded
        expert_of(tmp_path / "run", LAKE, make_lake)
    with pytest.raises(InvalidInput, match="trained on make_lake, an object of Python"):
        expert_of(tmp_path / "run", LAKE, "FrozenLake-v1")


# A function


class Kept:
    """A function that keeps what it sees, and returns one action of a list after the other."""

    def __init__(self, actions):
        self.actions, self.seen = list(actions), []

    def __call__(self, observation):
        self.seen.append(observation)
        return self.actions[len(self.seen) - 1]


@pytest.mark.parametrize("kind", gymnasium_spaces.ACTIONS)
def test_a_function_returns_actions_in_the_units_of_the_environment(kind):
    spec, space = spec_of(action=kind), gymnasium_spaces.ACTIONS[kind]
    space.seed(0)
    samples = [space.sample() for _ in range(5)]
    actions = actions_of(expert_of(Kept(samples), spec), np.zeros((5, 3), np.float32))
    assert actions.dtype == jax.eval_shape(partial(zeros_like_spec, spec)).action.dtype
    if kind == "bounded":
        assert abs(actions).max() <= 1
    given = to_environment_action(spec.action, actions)
    np.testing.assert_allclose(given, np.stack(samples), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")
@pytest.mark.parametrize("kind", gymnasium_spaces.OBSERVATIONS)
def test_a_function_sees_what_the_environment_observes(kind):
    """Row after row: members of the space, in its dtypes and structure."""
    spec, space = spec_of(kind), gymnasium_spaces.OBSERVATIONS[kind]
    rng = np.random.default_rng(0)
    rows = jax.tree.map(
        lambda x: rng.integers(2, size=(4, *x.shape)).astype(x.dtype), spec.observation.zeros()
    )
    function = Kept([-1, 0, 1, -1])
    np.testing.assert_array_equal(actions_of(expert_of(function, spec), rows), [0, 1, 2, 0])
    assert len(function.seen) == 4 and all(space.contains(seen) for seen in function.seen)
    if kind == "dict":
        assert type(function.seen[0]) is dict and function.seen[0].keys() == space.spaces.keys()
        counted = np.array([seen["a"] for seen in function.seen]) - 1
        assert any(np.array_equal(counted, leaf) for leaf in jax.tree.leaves(rows))


def test_what_a_function_sees_is_its_own_to_keep_and_to_change():
    def function(observation):
        observation *= 0
        return int(observation.sum()) - 1

    spec = spec_of()
    observation = np.ones((3, 3), np.float32)
    np.testing.assert_array_equal(actions_of(expert_of(function, spec), observation), [0, 0, 0])
    assert observation.all()


def sign(observation):
    """An action of three from the sign of the first number."""
    return int(np.sign(observation[0]))


def test_a_function_acts_under_vmap_as_over_seeds():
    expert = expert_of(sign, spec_of())
    observation = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)

    @jax.jit
    @jax.vmap
    @jax.vmap
    def act(observation):
        return expert.policy.act((), observation, (), KEY, True)[0]

    actions = run_compiled(act, observation)
    np.testing.assert_array_equal(actions, np.sign(observation[..., 0]) + 1)


def test_under_vmap_a_part_of_the_observation_may_be_the_same_for_all():
    space = Composite((Box((1,)), Box((1,))), ("mine", "ours"))

    def higher(observation):
        return int(observation["mine"][0] > observation["ours"][0])

    expert = expert_of(higher, EnvironmentSpec(space, Discrete(2)))
    mine, ours = np.float32([[[1], [2]], [[3], [0]], [[2], [5]]]), np.float32([[2], [1]])

    @jax.jit
    def act(mine, ours):
        seed = lambda mine: expert.policy.act((), {"mine": mine, "ours": ours}, (), KEY, True)[0]
        return jax.vmap(seed)(mine)

    np.testing.assert_array_equal(run_compiled(act, mine, ours), (mine > ours)[..., 0])


@algorithm
class Imitator:
    """Plays action 1, and reports how often an expert would have."""

    rollout_length: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("expert",)

    def init(self, key, spec, outside):
        return ()

    def act(self, state, observation, memory, key, explore, *outside):
        return jnp.ones(len(observation), jnp.int32), memory

    def update(self, state, experience, key, outside):
        expert, observation = outside.expert, flatten_time(experience.observation)
        labels, _ = expert.policy.act(expert.state, observation, (), key, False)
        return state, {"agreement": (labels == 1).mean(), "updates": 1}


def test_an_algorithm_in_training_asks_a_function_for_all_seeds_at_once():
    environment = etude.make(Counter(), 2)
    expert = expert_of(lambda observation: int(observation[0] < 3), environment.spec)
    keys = jnp.stack([jax.random.key(seed) for seed in range(3)])
    (report,) = progress(Imitator(), environment, keys, 8, outside=Outside(expert=expert))
    np.testing.assert_array_equal(report.metrics["agreement"], [0.75, 0.75, 0.75])


def test_a_function_has_the_name_that_a_person_gave_it():
    assert expert_name(sign) == "sign" and expert_name(partial(sign)) == "sign"
    assert expert_name(lambda observation: 0) == "lambda"
    assert expert_name("here:sign") == "here:sign"
    assert expert_name(etude.Random()) == "random"


def test_an_error_in_a_function_is_raised_with_its_name_and_cause():
    def looks_up(observation):
        return {}["the way home"]

    with pytest.raises(
        ExpertFault, match="expert looks_up raised KeyError: 'the way home'"
    ) as fault:
        actions_of(expert_of(looks_up, spec_of()), np.zeros((2, 3), np.float32))
    assert isinstance(fault.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("kind", "action", "said"),
    [
        ("discrete", 2, "2"),
        ("discrete", -2, "-2"),
        ("discrete", 0.0, "0.0"),
        ("discrete", [0], r"\[0\]"),
        ("discrete", None, "None"),
        ("discrete", "left", "'left'"),
        ("discrete", [[1], [1, 2]], r"\[\[1\], \[1, 2\]\]"),
        ("multidiscrete", [[0, 5], [1, 0]], r"\[\[0, 5\], \[1, 0\]\]"),
        ("multibinary", [[0, 1], [1, 2]], r"\[\[0, 1\], \[1, 2\]\]"),
        ("bounded", [2.1, 0], r"\[2.1, 0\]"),
        ("bounded", [0, np.nan], r"\[0, nan\]"),
        ("bounded", 1.0, "1.0"),
        ("integers", [0.5, 1], r"\[0.5, 1\]"),
        ("integers", [0, 11], r"\[0, 11\]"),
    ],
)
def test_an_action_that_is_not_in_the_space_is_refused(kind, action, said):
    policy = expert_of(lambda observation: action, spec_of(action=kind)).policy
    with pytest.raises(
        InvalidInput,
        match=rf"^expert lambda returned {said}, and the action space is \w+\(.*; return one "
        "action that is in it, in the environment's own units$",
    ):
        policy.to_policy_action(action)


def test_an_action_that_is_not_in_the_space_ends_the_program():
    with pytest.raises(InvalidInput, match="expert lambda returned 7, and the action space is "):
        actions_of(expert_of(lambda observation: 7, spec_of()), np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("space", "mask", "action", "legal"),
    [
        (Discrete(3, start=-1), [1, 0, 1], -1, True),
        (Discrete(3, start=-1), [1, 0, 1], 0, False),
        (MultiDiscrete((2, 3), (0, 0), (2,)), [1, 0, 0, 1, 1], [0, 2], True),
        (MultiDiscrete((2, 3), (0, 0), (2,)), [1, 0, 0, 1, 1], [1, 2], False),
        (MultiDiscrete((2, 3), (0, 0), (2,)), [1, 0, 0, 1, 1], [0, 0], False),
    ],
    ids=["one, legal", "one", "several, legal", "several, the first", "several, the second"],
)
def test_an_action_that_the_observation_forbids_is_refused(space, mask, action, legal):
    seen = Composite((MultiBinary((len(mask),)),), ("action_mask",))
    spec = EnvironmentSpec(seen, space, 1)
    expert = expert_of(lambda observation: np.array(action), spec)
    observation = {"action_mask": np.int8([mask])}
    if legal:
        assert actions_of(expert, observation).shape == (1, *np.shape(action))
    else:
        with pytest.raises(InvalidInput, match="expert lambda returned .* observation forbids;"):
            actions_of(expert, observation)


def test_module_and_function_name_one_that_is_imported(tmp_path, monkeypatch):
    (tmp_path / "named_experts.py").write_text(
        "def left(observation):\n    return -1\n\nclass Cautious:\n"
        "    def __call__(self, observation):\n        return 0\n\n"
        "cautious, number = Cautious(), 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    observation = np.zeros((1, 3), np.float32)
    assert actions_of(expert_of("named_experts:left", spec_of()), observation) == 0
    assert actions_of(expert_of("named_experts:cautious", spec_of()), observation) == 1
    for name, message in (
        ("named_experts:right", "expert 'named_experts:right': named_experts has no right"),
        ("no_experts:left", "the module 'no_experts' cannot be imported .*; install it, or mend"),
        ("named_experts:number", "expert .*3; give an algorithm that learns nothing"),
        (
            "named_experts:Cautious",
            "expert is the class Cautious; give a function of one observation",
        ),
    ):
        with pytest.raises(InvalidInput, match=message):
            expert_of(name, spec_of())
    sys.modules.pop("named_experts")


# What is no expert


class Chooser:
    def __call__(self, observation):
        return 0


@algorithm
class Unfinished:
    """An algorithm without `act`."""

    learns = False


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        ("randm", r"no expert is called 'randm'; did you mean random\? give an algorithm that "),
        (
            "nobody",
            r"no expert is called '?nobody'?; give an algorithm that learns nothing \(.*random.*\)"
            ", person, the directory of a run, or module:function, a function of one observation ",
        ),
        (
            "runs/q-learnin",
            r"no expert is called '?runs/q-learnin'?; did you mean runs/q-learning\? ",
        ),
        (
            "dqn",
            "expert is dqn, which has to learn before it can act; train it, and give the directory "
            "of the run",
        ),
        ("fitted-q", "expert is fitted-q, which has to learn before it can act"),
        (etude.DQN(), "expert is dqn, which has to learn before it can act"),
        (etude.DQN, "expert is DQN, which has to learn before it can act"),
        (Chooser, "expert is the class Chooser; give a function of one observation, or an object "),
        (3, "expert .*3; give an algorithm that learns nothing"),
        (None, "expert .*None; give"),
        (Unfinished(), "Unfinished has no init and no act and no update and no rollout_length; an"),
        (etude.MPC(horizon=0), "horizon is 0; it must be at least 1"),
        ("heuristic", r"there is no heuristic for an environment without an id; there is one for "),
        ("mpc", "mpc "),
        ("runs", "runs is not a run"),
    ],
    ids=str,
)
def test_what_is_no_expert_is_refused(tmp_path, expert, message):
    (tmp_path / "runs/q-learning").mkdir(parents=True)
    (tmp_path / "runs/q-learning/config.json").write_text("{}")
    with contextlib.chdir(tmp_path), pytest.raises(InvalidInput, match=message):
        expert_of(expert, spec_of())


def test_a_function_for_actions_of_several_parts_is_refused():
    spec = etude.struct.replace(spec_of(), action=spec_of("dict").observation)
    with pytest.raises(InvalidInput, match="expert sign is a function, which returns an action th"):
        expert_of(sign, spec)
