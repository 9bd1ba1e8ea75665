"""What holds for every algorithm: one table of them, and what each must keep on every kind of
environment.

A new method adds a row to SMALL, and to PROBED where it learns with networks; tests of its own
mathematics live beside it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args, get_type_hints

import gymnasium
import gymnasium_probes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Noise
from masked_choices import ONE, PAIR, STATES, Masked
from probing import DISCOUNT, FOREVER, SIGNS, VALUES, asked, at, read_after_training
from torsos import Own, plain

from etude.algorithms import ALGORITHMS, algorithm_class, registered_name
from etude.algorithms.actor_critic.actor_critic import A2C, ActorCritic
from etude.algorithms.actor_critic.sac import SAC, OffPolicyActorCritic
from etude.algorithms.assumptions import check_spaces
from etude.algorithms.common.tree_policy import TreePlanner
from etude.algorithms.control.guided_policy_search import GuidedPolicySearch
from etude.algorithms.control.heuristic import Heuristic
from etude.algorithms.control.mcts import MCTS
from etude.algorithms.control.mpc import MPC
from etude.algorithms.control.random_policy import Random
from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.cloning import AnyHead
from etude.algorithms.imitation.dagger import DAgger
from etude.algorithms.imitation.gail import AIRL, GAIL
from etude.algorithms.imitation.gcbc import GCBC
from etude.algorithms.imitation.gcsl import GCSL
from etude.algorithms.imitation.heads.autoregressive import Autoregressive
from etude.algorithms.imitation.iq_learn import IQLearn
from etude.algorithms.imitation.sqil import SQIL
from etude.algorithms.model_based.fit_model import AnyDynamics, FitModel
from etude.algorithms.model_based.mbmf import MBMF
from etude.algorithms.model_based.pets import PETS, Version05, Version10, Version15
from etude.algorithms.policy_gradient.reinforce import OffPolicyGradient, Reinforce
from etude.algorithms.protocol import NOTHING, Expert, Outside, acts, init_state, outside_arguments
from etude.algorithms.trust_region.ppo import PPO, DualGradient
from etude.algorithms.trust_region.trpo import TRPO, NaturalGradient
from etude.algorithms.value.boltzmann import Boltzmann
from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.dqn import DQN, OnlineQ
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.fitted_q import FittedQ
from etude.algorithms.value.naf import NAF
from etude.algorithms.value.pqn import PQN
from etude.algorithms.value.q_learning import SARSA, QLearning
from etude.algorithms.value.rainbow import Rainbow
from etude.algorithms.value.td import TD
from etude.algorithms.value.td3 import DDPG, TD3
from etude.data.dataset import Dataset, dataset_shapes
from etude.data.replay.hindsight import Hindsight
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.classic import PORTS
from etude.environments.goals import GoalReward
from etude.environments.probes import CONTINUOUS, DISCRETE, TARGET, ObservationTimesAction
from etude.environments.protocol import StepResult
from etude.environments.tabular import Tabular
from etude.errors import EnvironmentFault, InvalidInput
from etude.estimators.running_statistics import Normalization
from etude.kinds import code_fields, kinds_of
from etude.models.ensemble import Ensemble
from etude.models.variational import Variational
from etude.nn.recurrent import GRU, LSTM
from etude.optim.averaging import EMA
from etude.planning.planners import CEM, CMAES, AnyPlanner
from etude.planning.tree.rules import PUCT
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.spaces import (
    Box,
    Composite,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    MultiDiscrete,
    space_from_gymnasium,
    space_to_gymnasium,
)
from etude.struct import replace, static, struct
from etude.tabular.mdp import random_mdp
from etude.training import (
    compile_chunk,
    init_rollout,
    init_train_state,
    pure_train,
    run_compiled,
    train_iteration,
    vmap_over_seeds,
)


class Lander:
    """The spaces of LunarLander, and noise in place of its physics."""

    observation_space, action_space = Box((8,)), Discrete(4)

    def reset(self, key):
        observation = jax.random.normal(key, (8,))
        return observation, observation

    def step(self, state, action, key):
        after, observation = self.reset(key)
        return after, StepResult(observation, state[0] * action, state[1] > 1, state[2] > 1)


class Reach:
    """A point on a line that is pushed to a goal, of another distance at each step."""

    goal_reward = GoalReward(lambda achieved, desired: -jnp.abs(achieved - desired)[0])

    def __init__(self, action_space=DISCRETE):
        line, self.action_space = Box((1,)), action_space
        names = ("achieved_goal", "desired_goal", "observation")
        self.observation_space = Composite((line,) * 3, names)

    def reset(self, key):
        goal, start = jax.random.normal(key, (1,)), jnp.zeros(1)
        observation = {"achieved_goal": start, "desired_goal": goal, "observation": start}
        return observation, observation

    def step(self, state, action, key):
        place = state["achieved_goal"] + jnp.ravel(action) + jax.random.normal(key, (1,))
        after = {**state, "achieved_goal": place, "observation": place}
        reward, _ = self.goal_reward(place, state["desired_goal"], jnp.bool_(False))
        return after, StepResult(after, reward, place[0] > 2, place[0] < -1)


CHOICES, BOX, PROCESS = (
    JaxEnvs(environment, 2)
    for environment in (
        ObservationTimesAction(),
        ObservationTimesAction(CONTINUOUS),
        Tabular(random_mdp(jax.random.key(0), 3, 2, termination=0.3)),
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
SMALL_MODEL = Ensemble(members=2, elites=2, hidden=(4,), batch_size=4, gradient_steps=2)
SMALL_PETS = PETS(
    model=SMALL_MODEL,
    planner=CEM(elites=2),
    particles=2,
    horizon=3,
    samples=4,
    iterations=1,
    rollout_length=3,
    warmup_steps=6,
    capacity=12,
)
DISCRIMINATOR = {"hidden": (4,), "batch_size": 4, "gradient_steps": 1, "capacity": 12}
# name: (algorithm, environment, the kinds of action it takes, of what it learns the first leaf or
# None)
SMALL = {
    "q-learning": (QLearning(rollout_length=2), PROCESS, {"discrete"}, "q"),
    "td": (TD(rollout_length=2, trace_decay=0.5), PROCESS, {"discrete"}, "value"),
    "dqn": (
        DQN(target_interval=2, head=QuantileHead(3), maximizer=CMAES(), **REPLAYED),
        CHOICES,
        {"discrete", "bounded", "float64", "integers"},
        "q",
    ),
    "fitted-q": (
        FittedQ(hidden=(4,), batch_size=4, capacity=3000, exploration=Boltzmann()),
        CHOICES,
        {"discrete"},
        "q",
    ),
    "rainbow": (
        Rainbow(target_interval=2, head=CategoricalHead(5), **REPLAYED),
        CHOICES,
        {"discrete"},
        "q",
    ),
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
        "networks",
    ),
    "actor-critic": (
        ActorCritic(
            hidden=(4,),
            rollout_length=4,
            recurrent=GRU(4),
            normalize_observation=Normalization(),
            value_steps=1,
            discount_from="start",
        ),
        CHOICES,
        EVERY,
        "networks",
    ),
    "trpo": (
        TRPO(
            hidden=(4,),
            batch_size=3,
            rollout_length=3,
            conjugate_steps=2,
            value_epochs=1,
            recurrent=LSTM(4),
            sequence_length=3,
            normalize_reward=Normalization(),
        ),
        CHOICES,
        EVERY,
        "networks",
    ),
    "ppo": (
        PPO(
            hidden=(4,),
            batch_size=4,
            rollout_length=3,
            epochs=1,
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
        ),
        CHOICES,
        EVERY,
        "networks",
    ),
    "bc": (
        BC(
            hidden=(4,),
            batch_size=4,
            gradient_steps=2,
            recurrent=GRU(4),
            sequence_length=2,
            validation_share=0.5,
        ),
        CHOICES,
        EVERY,
        "weights",
    ),
    "dagger": (
        DAgger(
            hidden=(4,),
            batch_size=4,
            gradient_steps=2,
            rollout_length=3,
            capacity=12,
            recurrent=LSTM(4),
            sequence_length=2,
        ),
        CHOICES,
        EVERY,
        "weights",
    ),
    "gail": (
        GAIL(agent=PPO(hidden=(4,), batch_size=4, rollout_length=3, epochs=1), **DISCRIMINATOR),
        CHOICES,
        EVERY,
        "discriminator",
    ),
    "sqil": (
        SQIL(agent=DQN(**REPLAYED)),
        CHOICES,
        {"discrete", "bounded", "float64", "integers"},
        "agent",
    ),
    "iq-learn": (IQLearn(hidden=(4,), batch_size=4, gradient_steps=2), CHOICES, {"discrete"}, "q"),
    "gcbc": (GCBC(hidden=(4,), batch_size=4, gradient_steps=2), CHOICES, EVERY, "weights"),
    "gcsl": (
        GCSL(
            hidden=(4,),
            batch_size=4,
            gradient_steps=2,
            rollout_length=3,
            capacity=12,
            random_steps=6,
        ),
        CHOICES,
        EVERY,
        "weights",
    ),
    "mpc": (
        MPC(model="Pendulum-v1", planner=CEM(elites=2), horizon=3, samples=4, iterations=2),
        JaxEnvs(PORTS["Pendulum-v1"](), 2),
        {"bounded", "float64", "integers"},
        None,
    ),
    "fit-model": (
        FitModel(model=Variational(hidden=(4,), draws=2, batch_size=4, gradient_steps=2)),
        BOX,
        {"discrete", "bounded", "float64", "integers"},
        "model",
    ),
    "pets": (SMALL_PETS, BOX, {"discrete", "bounded", "float64", "integers"}, "model"),
    "mbmf": (
        MBMF(
            planning=SMALL_PETS,
            agent=PPO(hidden=(4,), batch_size=4, rollout_length=3, epochs=1),
            planner_steps=12,
            imitation_steps=12,
            value_warmup_steps=6,
            batch_size=4,
            gradient_steps=2,
        ),
        BOX,
        {"bounded", "float64", "integers"},
        "agent",
    ),
    "mcts": (
        MCTS("CartPole-v1", simulations=4, horizon=3),
        JaxEnvs(PORTS["CartPole-v1"](), 2),
        {"discrete"},
        None,
    ),
    "guided-policy-search": (
        GuidedPolicySearch(
            "Pendulum-v1",
            hidden=(4,),
            teachers=2,
            horizon=3,
            taught_steps=2,
            rollout_length=3,
            gradient_steps=2,
            batch_size=4,
            normalize_observation=Normalization(),
        ),
        JaxEnvs(PORTS["Pendulum-v1"](), 2),
        {"bounded", "float64", "integers"},
        None,
    ),
    "random": (Random(rollout_length=2), CHOICES, EVERY, None),
    "heuristic": (Heuristic(rollout_length=2), JaxEnvs(Lander(), 2, "LunarLander-v3"), set(), None),
}
# of what is in SMALL
SETTINGS = {
    "sarsa": SARSA(),
    "online-q": OnlineQ(),
    "ddpg": DDPG(),
    "off-policy-actor-critic": OffPolicyActorCritic(),
    "off-policy-gradient": OffPolicyGradient(),
    "a2c": A2C(),
    "natural-gradient": NaturalGradient(),
    "dual-gradient": DualGradient(),
    "airl": AIRL(),
    "mbrl-0.5": Version05(),
    "mbrl-1.0": Version10(),
    "mbrl-1.5": Version15(),
}
# what brings memories or other goals to an algorithm of SMALL, in rows of the same kind
RECALLED = {**REPLAYED, "sequence_length": 2, "burn_in": 1}
VARIANTS = {
    "rainbow with memory": (
        Rainbow(target_interval=2, head=CategoricalHead(5), recurrent=LSTM(3), **RECALLED),
        CHOICES,
        {"discrete"},
        "q",
    ),
    "sac with memory": (SAC(recurrent=GRU(3), **RECALLED), BOX, SMALL["sac"][2], "policy"),
    "dqn with hindsight": (
        DQN(target_interval=2, hindsight=Hindsight(), n_step=2, **REPLAYED),
        JaxEnvs(Reach(), 2),
        SMALL["dqn"][2],
        "q",
    ),
    "gcsl where goals are desired": (
        replace(SMALL["gcsl"][0], horizon=3, sample_actions=False, epsilon=0.5),
        JaxEnvs(Reach(CONTINUOUS), 2),
        EVERY,
        "weights",
    ),
    "ddpg with hindsight": (
        DDPG(hindsight=Hindsight("final"), **REPLAYED),
        JaxEnvs(Reach(CONTINUOUS), 2),
        SMALL["td3"][2],
        "policy",
    ),
    "gail on sac": (
        GAIL(agent=SAC(**REPLAYED), **DISCRIMINATOR),
        BOX,
        SMALL["sac"][2],
        "discriminator",
    ),
    "gail on sac with memory": (
        GAIL(agent=SAC(recurrent=GRU(3), **RECALLED), **DISCRIMINATOR),
        BOX,
        SMALL["sac"][2],
        "discriminator",
    ),
    "gail with memory": (
        GAIL(
            agent=replace(
                SMALL["gail"][0].agent, recurrent=GRU(3), sequence_length=3, batch_size=3
            ),
            **DISCRIMINATOR,
        ),
        CHOICES,
        EVERY,
        "discriminator",
    ),
    "sqil with memory": (
        SQIL(agent=DQN(recurrent=LSTM(3), n_step=2, **RECALLED)),
        CHOICES,
        SMALL["sqil"][2],
        "agent",
    ),
    "gcbc with memory": (
        replace(SMALL["gcbc"][0], recurrent=GRU(3), sequence_length=2),
        CHOICES,
        EVERY,
        "weights",
    ),
    "gcsl with memory": (
        replace(SMALL["gcsl"][0], recurrent=GRU(3), sequence_length=2, burn_in=1),
        CHOICES,
        EVERY,
        "weights",
    ),
    "iq-learn with memory": (
        IQLearn(
            hidden=(4,),
            recurrent=GRU(3),
            batch_size=4,
            sequence_length=2,
            burn_in=1,
            gradient_steps=2,
            online=True,
            rollout_length=3,
            capacity=12,
        ),
        CHOICES,
        {"discrete"},
        "q",
    ),
    "iq-learn online": (
        IQLearn(
            hidden=(4,), batch_size=4, gradient_steps=2, online=True, rollout_length=3, capacity=12
        ),
        CHOICES,
        {"discrete"},
        "q",
    ),
    "pets by tree search": (
        replace(SMALL_PETS, tree_search=TreePlanner(simulations=4, trees=2)),
        CHOICES,
        {"discrete"},
        "model",
    ),
    "bc in chunks": (
        BC(
            hidden=(4,),
            head=Autoregressive(bins=3, units=4),
            chunk=3,
            execute=2,
            ema=EMA(),
            batch_size=4,
            gradient_steps=2,
        ),
        BOX,
        {"discrete", "multidiscrete", "multibinary", "bounded", "float64", "integers"},
        "weights",
    ),
}
ROWS = {**SMALL, **VARIANTS}
# what depends on the actions being choices, or on their exploration
VARIANTS_OF_CHOICES = {
    "bc by parts": (
        BC(hidden=(4,), head=Autoregressive(units=4), batch_size=4, gradient_steps=2),
        CHOICES,
        {"discrete", "multidiscrete"},
        "weights",
    ),
    "off-policy-actor-critic": (OffPolicyActorCritic(**REPLAYED), CHOICES, {"discrete"}, "policy"),
    "sarsa": (SARSA(rollout_length=2), PROCESS, {"discrete"}, "q"),
    "dqn by temperature": (DQN(exploration=Boltzmann(), **REPLAYED), CHOICES, {"discrete"}, "q"),
    "off-policy-gradient": (
        OffPolicyGradient(hidden=(4,), batch_steps=2, capacity=12, rollout_length=3),
        CHOICES,
        EVERY,
        "networks",
    ),
}
every_algorithm = pytest.mark.parametrize("name", SMALL)
LEARNERS = [name for name, (*_, learned) in ROWS.items() if learned]
PLAYERS = [name for name in LEARNERS if name in SMALL and SMALL[name][0].plays]
# these are of one class with rainbow
TWO_SEEDS = [name for name in ROWS if name not in ("dqn", "fitted-q")]
# the same loops around another loss as one that is run: off-policy, on-policy, over a table
AKIN = {
    "td": "q-learning",
    "naf": "rainbow",
    "td3": "sac",
    "trpo": "ppo",
    "dagger": "bc",
    "gail": "ppo",
    "gail on sac": "sac",
    "sqil": "dqn",
    "iq-learn": "bc",
    "iq-learn online": "gcsl",
    "gcbc": "bc",
    "gcsl": "dqn with hindsight",
    "gcsl where goals are desired": "gcsl",
    "bc in chunks": "bc",
    "gail with memory": "gail",
    "gail on sac with memory": "gail on sac",
    "sqil with memory": "rainbow with memory",
    "gcbc with memory": "bc",
    "gcsl with memory": "rainbow with memory",
    "iq-learn with memory": "rainbow with memory",
    # a sequence is compared with single steps by a test of its own
    "rainbow with memory": "rainbow",
    "sac with memory": "rainbow with memory",
    "ddpg with hindsight": "dqn with hindsight",
    # neither learns, and the other remembers its plan; what a search finds has tests of its own
    "mcts": "mpc",
    "fit-model": "pets",
    "pets by tree search": "pets",
    "mbmf": "pets",
    # a policy of `nn.policies` in the loop of the others; its teachers have tests of their own
    "guided-policy-search": "ppo",
}


def in_tiers(names):
    def mark(name):
        return pytest.mark.system if name in AKIN else pytest.mark.slow

    return pytest.mark.parametrize(
        "name",
        [name if name == "q-learning" else pytest.param(name, marks=mark(name)) for name in names],
    )


KEYS = jax.random.split(jax.random.key(0), 2)


def test_every_algorithm_of_the_table_is_tested_here():
    assert set(SMALL) | set(SETTINGS) == set(ALGORITHMS)
    for name, algorithm in {**{name: row[0] for name, row in SMALL.items()}, **SETTINGS}.items():
        assert algorithm_class(name) is type(algorithm) and registered_name(algorithm) == name
        assert ALGORITHMS[name][2]


def test_every_kind_of_setting_is_in_a_row():
    """But planners, rules of tree search, models and heads, which have tests of their own."""
    there, possible = set(), set()
    for algorithm, *_ in ROWS.values():
        for field, hint in get_type_hints(type(algorithm)).items():
            if kinds := kinds_of(hint):
                there.add(type(getattr(algorithm, field)))
                possible |= {*kinds.values()}
    tested = {*get_args(AnyPlanner), *get_args(AnyHead), *get_args(AnyDynamics), PUCT, TreePlanner}
    assert possible - there <= tested


def test_an_unknown_algorithm_is_refused_with_near_matches():
    with pytest.raises(InvalidInput, match="no algorithm is called 'pop'; did you mean .*ppo"):
        algorithm_class("pop")
    with pytest.raises(
        InvalidInput, match="no algorithm is called 'os.system'; .*there are .*dqn, .*ppo"
    ):
        algorithm_class("os.system")
    assert registered_name(struct(type("Mine", (), {}))()) == f"{__name__}:Mine"


@pytest.fixture(scope="module")
def programs():
    """A function from an algorithm's name to (training of two seeds at the start, the program of
    any two, what begins any two)."""
    made = {}

    def together(name):
        if name not in made:
            algorithm, environment, _, _ = ROWS[name]
            outside = outside_of(algorithm, environment)
            begin = partial(init_train_state, algorithm, environment, outside=outside)
            begin = jax.jit(vmap_over_seeds(begin, KEYS))
            both = begin(KEYS)
            program = compile_chunk(algorithm, environment, both, KEYS, 100, outside)
            made[name] = jax.device_get(both), lambda *given: program(*given, outside), begin
        return made[name]

    return together


def outside_of(algorithm, environment):
    """What reaches it from outside: an expert that acts at random, or four episodes of four steps,
    of random play where that can be traced, else of zeros."""
    spec, random = environment.spec, Random()
    if "expert" in algorithm.needs:
        return Outside(expert=Expert(random.init(KEYS[0], spec), random))
    if "dataset" not in algorithm.needs:
        return NOTHING

    def play(key):
        policy = bind_policy(random, random.init(key, spec), environment, explore=True)
        stage = init_rollout(random, environment, random.init(key, spec), key)
        played = replace(rollout(environment, policy, stage, key, 8)[1], memory=())
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), played)

    if environment.functional:
        steps = jax.jit(play)(KEYS[0])
    else:
        shapes = dataset_shapes(spec, 16, 4).transitions
        steps = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    never, ends = np.zeros(16, bool), np.arange(16) % 4 == 3
    steps = replace(steps, terminated=never, truncated=ends)
    dataset = Dataset(steps, np.full(4, 4, np.int32), replace(spec, num_envs=1))
    return Outside(jax.tree.map(jnp.asarray, dataset))


def behavior(algorithm, state, environment):
    """The policy that collects experience, which has what is outside where it plays in training."""
    outside = outside_of(algorithm, environment) if algorithm.plays else None
    return bind_policy(algorithm, state, environment, explore=True, outside=outside)


def seed_of(trainings, i):
    return jax.tree.map(lambda x: x[i], trainings)


def run(program, training, key, begin, end):
    """Through host memory, as through a checkpoint; what is given is not given away."""
    training = jax.tree.map(jnp.asarray, training)
    return jax.device_get(program(training, key, begin, end))


def assert_close(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one, other)


@pytest.fixture(scope="module")
def single(programs):
    """Of a table, training of one seed at the start and its program."""
    first = seed_of(programs("q-learning")[0], 0)
    program = compile_chunk(
        *SMALL["q-learning"][:2], jax.tree.map(jnp.asarray, first), KEYS[0], 100
    )
    return first, lambda *given: program(*given, NOTHING)


@pytest.mark.system  # uncompiled, each operation is a program
def test_compiled_is_what_it_computes_uncompiled(single):
    """The loop around an algorithm; what each computes inside is compared with NumPy by its own
    tests."""
    first, alone = single
    before = run(alone, first, KEYS[0], 0, 3)
    compiled = run(alone, before, KEYS[0], 3, 4)
    with jax.disable_jit():
        plain = train_iteration(
            *SMALL["q-learning"][:2], jax.tree.map(jnp.asarray, before), KEYS[0], np.int32(3)
        )
    assert compiled.metric_sums.updates > 0
    assert_close(compiled, jax.device_get(plain))


@pytest.mark.system
def test_many_seeds_in_one_program_are_each_seed_alone(programs, single):
    both, program, _ = programs("q-learning")
    many = run(program, both, KEYS, 0, 5)
    for i in range(2):
        assert_close(seed_of(many, i), run(single[1], seed_of(both, i), KEYS[i], 0, 5))


@in_tiers([name for name in TWO_SEEDS if name in LEARNERS])
def test_seeds_differ(name, programs):
    """In what they know at the start, in what they see and in what they learn."""
    learned = ROWS[name][3]
    begun, program, _ = programs(name)
    after = run(program, begun, KEYS, 0, 5)
    tables = ROWS[name][1] is PROCESS
    for training in (after,) if tables else (begun, after):  # no chance is in a table's beginning
        first, second = (
            jax.tree.leaves(part_of(seed_of(training, i).algorithm_state, learned))[0]
            for i in range(2)
        )
        assert (first != second).any() if tables else (first != second).all()
    sums = after.metric_sums
    # of what learns a model its error, since no episode may have ended
    of_losses = [sums.metrics[key] for key in ("heldout_mse", "nll", "loss") if key in sums.metrics]
    is_judged_by_loss = "heldout_mse" in sums.metrics or not ROWS[name][0].plays
    told = of_losses[0] if is_judged_by_loss else sums.episodes.total_return
    assert (told[0] != told[1]).all()


@in_tiers(TWO_SEEDS)
def test_resumed_is_uninterrupted_bit_for_bit(name, programs):
    """After any iteration, with every seed."""
    first, program, _ = programs(name)
    whole = run(program, first, KEYS, 0, 7)
    for stop in (1, 4):
        rest = run(program, run(program, first, KEYS, 0, stop), KEYS, stop, 7)
        jax.tree.map(np.testing.assert_array_equal, rest, whole)


@in_tiers(TWO_SEEDS)
def test_a_seed_is_the_same_beside_any_other(name, programs):
    """In the other's place and with another neighbor."""
    first, program, begin = programs(name)
    keys = jnp.stack([KEYS[1], jax.random.key(5)])
    here = run(program, first, KEYS, 0, 5)
    there = run(program, begin(keys), keys, 0, 5)
    assert_close(seed_of(here, 1), seed_of(there, 0))


def part_of(state, name):
    """What an algorithm learns, wherever in its state it lies."""
    return getattr(state, name) if hasattr(state, name) else getattr(state.learner, name)


def played(algorithm, environment, state, key):
    """(stage, experience) of one rollout."""
    return rollout(
        environment,
        behavior(algorithm, state, environment),
        init_rollout(algorithm, environment, state, key, outside_of(algorithm, environment)),
        key,
        3,
    )[:2]


def improved(algorithm, environment, state, key):
    """The state after an update from one rollout, or from what it has instead."""
    experience = played(algorithm, environment, state, key)[1] if algorithm.plays else ()
    outside = outside_arguments(algorithm, outside_of(algorithm, environment))
    return algorithm.update(state, experience, key, *outside)[0]


def shape_of_state(algorithm, environment):
    outside = outside_of(algorithm, environment)
    return jax.eval_shape(
        partial(init_state, algorithm, spec=environment.spec, outside=outside), KEYS[0]
    )


def blank_state(algorithm, environment):
    """Weights of zero do to play, and take no time to draw."""
    return jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), shape_of_state(algorithm, environment)
    )


def assert_alike(one, other):
    """The same tree of the same shapes and dtypes."""
    assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(
        lambda x: (x.shape, x.dtype), other
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, observation, action",
    [
        ("dqn", "discrete", "discrete"),
        ("dqn", "box", "bounded"),
        ("sac", "nested", "unbounded"),
        ("td3", "dict", "integers"),
        ("ppo", "nested", "multidiscrete"),
        ("ppo", "image", "multibinary"),
    ],
)
def test_spaces_of_every_kind_are_played_on(name, observation, action):
    """Real simulators get actions of their spaces, and an update takes what they tell."""
    environment = GymnasiumEnvs(partial(Noise, OBSERVATIONS[observation], ACTIONS[action]), 2)
    algorithm = SMALL[name][0]
    state = blank_state(algorithm, environment)
    _, experience = run_compiled(jax.jit(partial(played, algorithm, environment)), state, KEYS[0])
    for simulator in environment.vector_env.envs:
        assert len(simulator.given) == 3 and all(
            simulator.action_space.contains(given) for given in simulator.given
        )
    assert_alike(jax.eval_shape(algorithm.update, state, experience, KEYS[0])[0], state)


# of the kinds of action an algorithm takes, those that nothing else here plays or traces; what acts
# through a policy of `etude.nn.policies` sees of them what PPO sees
TRACED = {
    "dqn": ["integers"],
    "naf": ["float64"],
    "sac": ["bounded"],
    "reinforce": ["unbounded"],
    "actor-critic": ["multibinary"],
    "ppo": ["unbounded", "float64", "integers"],
}


@in_tiers([name for name in LEARNERS if name in SMALL])
def test_every_space_it_can_take_is_taken_and_the_learning_rate_swept_in_one_program(name):
    """Traced, not run: an observation of which every kind is a part, under a vmap over the rate,
    and kinds of action."""
    algorithm, environment, kinds, _ = SMALL[name]
    if getattr(algorithm, "recurrent", None):
        # a memory sees features, whatever they are of
        algorithm = replace(algorithm, recurrent=None)
    action = next(kind for kind in ACTIONS if kind in kinds)
    # what networks see is one for all of them, so one of each sort sees every kind
    every = OBSERVATIONS if name in ("sac", "ppo") else ("discrete", "multibinary")
    every = (*every, *("box",) * algorithm.assumes.distances)
    if environment is PROCESS:
        seen = OBSERVATIONS["discrete"]
    elif algorithm.assumes.vector_observations:
        seen = OBSERVATIONS["box"]
    else:
        seen = gymnasium.spaces.Tuple([OBSERVATIONS[kind] for kind in every])
    environment = GymnasiumEnvs(partial(Noise, seen, ACTIONS[action]), 2)
    before = shape_of_state(algorithm, environment)

    def swept(rate, state):
        return improved(with_rate(algorithm, rate), environment, state, KEYS[0])

    after = jax.eval_shape(jax.vmap(swept, (0, None)), np.float32([1e-3, 1e-2, 1e-1]), before)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(after)} == {3}
    assert_alike(before, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), after))
    for kind in TRACED.get(name, ()):
        assert kind in kinds
        assert_update_keeps_shapes(
            algorithm, GymnasiumEnvs(partial(Noise, OBSERVATIONS["box"], ACTIONS[kind]), 2)
        )


def with_rate(algorithm, rate):
    """The algorithm with another learning rate, of its own or of the agent in its field."""
    if hasattr(algorithm, "learning_rate"):
        return replace(algorithm, learning_rate=rate)
    if hasattr(algorithm, "model"):
        return replace(algorithm, model=replace(algorithm.model, learning_rate=rate))
    return replace(algorithm, agent=with_rate(algorithm.agent, rate))


def assert_update_keeps_shapes(algorithm, environment):
    before = shape_of_state(algorithm, environment)
    assert_alike(before, jax.eval_shape(partial(improved, algorithm, environment), before, KEYS[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROWS if acts(ROWS[name][0])])
def test_a_policy_hands_on_a_memory_of_the_shape_that_it_began_with(name):
    """Traced, not run."""
    algorithm, environment, *_ = ROWS[name]
    outside = outside_of(algorithm, environment)

    def memories(key):
        state = init_state(algorithm, key, environment.spec, outside)
        policy = behavior(algorithm, state, environment)
        begun = policy.initial_memory(key)
        return begun, policy.act(environment.reset(key)[1], begun, key)[1]

    begun, handed_on = jax.eval_shape(memories, KEYS[0])
    assert_alike(begun, handed_on)
    assert all(leaf.shape[0] == environment.spec.num_envs for leaf in jax.tree.leaves(begun))


@pytest.mark.slow
def test_trpo_takes_a_memory():
    """Traced, not run: second derivatives through time."""
    assert SMALL["trpo"][0].recurrent
    assert_update_keeps_shapes(SMALL["trpo"][0], CHOICES)


# it plans on the model of one environment, whose spaces these are not
OF_A_MODEL = ("guided-policy-search",)
# with networks of one's own: Rainbow's are dueling and noisy, ActorCritic and TRPO have a memory
OWN = {
    name: replace(algorithm, torso=Own)
    for name, (algorithm, *_) in SMALL.items()
    if "torso" in code_fields(type(algorithm)) and name not in OF_A_MODEL
} | {
    "dqn in a box": replace(SMALL["dqn"][0], torso=Own),
    "sac of choices": replace(SMALL["sac"][0], torso=plain),
    "ppo with a memory": replace(
        SMALL["ppo"][0], torso=plain, recurrent=GRU(4), sequence_length=3, batch_size=6
    ),
    "rainbow with memory": replace(VARIANTS["rainbow with memory"][0], torso=plain),
    "dqn in a box with memory": replace(
        SMALL["dqn"][0], torso=plain, recurrent=GRU(4), sequence_length=2, burn_in=0
    ),
    "sac with memory": replace(VARIANTS["sac with memory"][0], torso=plain),
    "actor-critic with a control variate": replace(
        SMALL["actor-critic"][0], torso=Own, recurrent=None, control_variate=True
    ),
}
# one of each way to make networks; the others make theirs in the same ways
TRACED_OWN = ("rainbow", "dqn in a box", "ppo with a memory", "sac with memory")
CONTINUOUS_ACTIONS = (
    "naf",
    "td3",
    "sac",
    "sac with memory",
    "dqn in a box",
    "dqn in a box with memory",
)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("dqn", "sac")
        else pytest.param(
            name, marks=pytest.mark.slow if name in TRACED_OWN else pytest.mark.system
        )
        for name in OWN
    ],
)
def test_every_algorithm_with_hidden_layers_takes_networks_of_ones_own(name):
    """Traced, not run: of a Dict of observations."""
    for other, (algorithm, *_) in SMALL.items():
        # an agent in a field takes them itself
        has_networks = hasattr(algorithm, "hidden") and not hasattr(algorithm, "agent")
        assert (other in OWN) == (has_networks and other not in OF_A_MODEL)
    action = ACTIONS["bounded" if name in CONTINUOUS_ACTIONS else "discrete"]
    seen = gymnasium.spaces.Dict({kind: OBSERVATIONS[kind] for kind in ("discrete", "box")})
    assert_update_keeps_shapes(OWN[name], GymnasiumEnvs(partial(Noise, seen, action), 2))


@pytest.mark.system
@pytest.mark.parametrize("name", ["rainbow", "dqn in a box", "sac", "ppo with a memory"])
def test_networks_of_ones_own_are_trained(name):
    """Each array of theirs changes."""
    algorithm = OWN[name]
    environment = BOX if name in CONTINUOUS_ACTIONS else CHOICES
    program = jax.jit(partial(train_iteration, algorithm, environment))
    begun = after = jax.jit(partial(init_train_state, algorithm, environment))(KEYS[0])
    for i in range(6):
        after = program(after, KEYS[0], i)
    learned = [
        part_of(training.algorithm_state, SMALL[name.split()[0]][3]) for training in (begun, after)
    ]
    for path, change in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.not_equal, *learned)):
        where = jax.tree_util.keystr(path)
        assert change.any() or ".encoder" not in where, where


@every_algorithm
def test_what_it_cannot_take_is_refused_by_name(name):
    algorithm, environment, taken, _ = SMALL[name]
    for kind, space in ACTIONS.items():
        spec = EnvironmentSpec(
            Discrete(3) if environment is PROCESS else Box((3,)),
            space_from_gymnasium(space, "action"),
            2,
            environment.spec.id,
        )
        if kind not in taken:
            asked = type(algorithm).__name__ if name != "heuristic" else "the heuristic"
            with pytest.raises(InvalidInput, match=f"{asked} .* environment's are"):
                init_state(algorithm, KEYS[0], spec)
        else:
            check_spaces(algorithm.assumes, spec, name)
    kinds = {type(space_from_gymnasium(space, "action")) for space in ACTIONS.values()}
    assert {Discrete, MultiDiscrete, MultiBinary} < kinds


# Action masks

MASKED, MASKED_IN_BOX = (
    {
        kind: JaxEnvs(Masked(space, in_box), STATES)
        for kind, space in (("discrete", ONE), ("multidiscrete", PAIR))
    }
    for in_box in (False, True)
)
OF_CHOICES = [
    (name, kind)
    for name, (algorithm, _, kinds, learned) in (ROWS | VARIANTS_OF_CHOICES).items()
    for kind in MASKED
    if kind in kinds
    and not getattr(algorithm, "hindsight", None)
    and algorithm.assumes.action_masks
    # a mask says nothing of the later actions of a chunk
    if name not in ("mcts", "bc in chunks")
]
# it learns from a buffer whose blank rows allow nothing; what the others choose and the values that
# they learn are compared with those of a process that has no other actions
CHOOSING = ("reinforce", "multidiscrete")


@pytest.mark.parametrize(
    "name, kind",
    [
        pytest.param(
            *row,
            id=" of ".join(row),
            marks=pytest.mark.slow if row == CHOOSING else pytest.mark.system,
        )
        for row in OF_CHOICES
    ],
)
def test_nothing_forbidden_is_done_or_valued(name, kind):
    """In training, while it explores, and when it is evaluated; though what is forbidden pays 10.
    Nothing is allowed where an episode ends, and what is learned there is finite."""
    algorithm, *_, learned = (ROWS | VARIANTS_OF_CHOICES)[name]
    environment = (MASKED_IN_BOX if algorithm.assumes.distances else MASKED)[kind]
    check_spaces(algorithm.assumes, environment.spec, name)
    outside = outside_of(algorithm, environment)

    @jax.jit
    def live(key):
        key_state, key_roll, *keys = jax.random.split(key, 32)
        state = init_state(algorithm, key_state, environment.spec, outside)

        def is_legal(observation, action):
            return environment.environment.is_legal(observation["action_mask"], action)

        def iterate(carry, key):
            state, stage = carry
            policy = behavior(algorithm, state, environment)
            length = algorithm.rollout_length if algorithm.plays else 4
            stage, experience, _ = rollout(environment, policy, stage, key, length)
            legal = is_legal(experience.observation, experience.action)
            learned_from = experience if algorithm.plays else ()
            needed = outside_arguments(algorithm, outside)
            state, metrics = algorithm.update(state, learned_from, key, *needed)
            return (state, stage), (legal.all(), metrics["updates"])

        policy = behavior(algorithm, state, environment)
        stage = init_rollout_state(environment, policy, key_roll)
        (state, _), told = jax.lax.scan(iterate, (state, stage), jnp.stack(keys))
        policy = bind_policy(algorithm, state, environment)
        everywhere = environment.environment.observe(jnp.arange(STATES))
        action, _ = policy.act(everywhere, policy.initial_memory(key), key)
        return state, *told, is_legal(everywhere, action)

    state, explored, updates, evaluated = jax.device_get(live(KEYS[0]))
    assert explored.all() and evaluated.all()
    if learned:
        assert updates.sum() > 3
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(part_of(state, learned)))


def test_an_action_mask_is_kept_to_or_refused_by_name():
    """Of choices; of other actions, whoever is asked, there is none to keep to."""
    specs = [
        EnvironmentSpec(
            Composite((MultiBinary((2,)), states), ("action_mask", "observation")), Discrete(2), 2
        )
        for states in (Discrete(3), Box((1,)))
    ]
    for name, (algorithm, _, kinds, _) in SMALL.items():
        spec = specs[algorithm.assumes.distances]
        if "discrete" in kinds and algorithm.assumes.action_masks:
            check_spaces(algorithm.assumes, spec, name)
            with pytest.raises(InvalidInput, match=f"{name}.* does not read action masks"):
                check_spaces(algorithm.assumes._replace(action_masks=False), spec, name)
        else:
            with pytest.raises(InvalidInput, match=f"{name} (takes|does not read)"):
                check_spaces(algorithm.assumes, spec, name)
        for action in (Box((1,), low=-1.0, high=1.0), MultiBinary((2,))):
            with pytest.raises(InvalidInput, match="takes|has an action_mask, which is for"):
                check_spaces(algorithm.assumes, replace(spec, action=action), name)
    with pytest.raises(InvalidInput, match="action_mask has shape .2,., and there are 3 choices"):
        check_spaces(SMALL["ppo"][0].assumes, replace(specs[0], action=Discrete(3)), "ppo")


# Episodes without an end, and environments that break their word


@struct
class Ending:
    """Pays for the second action; its episodes have `length` steps, which is traced."""

    length: Any
    observation_space: Any = static(Discrete(3))
    action_space: Any = static(Discrete(2))

    def reset(self, key):
        return jnp.int32(0), self.observe(key)

    def step(self, state, action, key):
        reward = jnp.ravel(action).sum().astype(jnp.float32)
        ended = state + 1 >= self.length
        return state + 1, StepResult(self.observe(key), reward, ended, jnp.bool_(False))

    def observe(self, key):
        is_table = isinstance(self.observation_space, Discrete)
        return jax.random.randint(key, (), 0, 3) if is_table else jax.random.normal(key, (2,))


# whole episodes are what it learns from, and what it does without their end is its own
UNENDING = ("reinforce",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in UNENDING else pytest.mark.system)
        for name in PLAYERS
    ],
)
def test_what_never_ends_and_what_ends_at_once_is_learned_from(name):
    """Every number stays finite, and the episodes that end are counted: none, or one a step."""
    algorithm, shaped, *_ = SMALL[name]
    seen = Discrete(3) if shaped is PROCESS else Box((2,))

    @jax.jit
    def train(length):
        spaces = {"observation_space": seen, "action_space": shaped.spec.action}
        environment = JaxEnvs(Ending(length, **spaces), 2)
        outside = outside_of(algorithm, environment)
        return pure_train(algorithm, environment, KEYS[0], 12, outside)

    for length, ended in ((2**30, 0), (1, 1)):
        training, sums = jax.device_get(train(jnp.int32(length)))
        steps = 12 * algorithm.steps_per_update(2)
        assert sums.episodes.count.sum() == ended * steps
        assert sums.updates.sum() > 0
        for leaf in jax.tree.leaves((training.algorithm_state, sums.metrics)):
            assert np.isfinite(leaf).all()


class Breaking(gymnasium.Env):
    """Keeps its word for two steps, and then does what `how` says."""

    def __init__(self, how, observation_space, action_space):
        self.how, self.observation_space, self.action_space = how, observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.time += 1
        seen, breaks = self.observation_space.sample(), self.time == 3
        is_table = isinstance(self.observation_space, gymnasium.spaces.Discrete)
        if breaks and self.how == "observation":
            seen = 9 if is_table else seen * np.inf
        return seen, 1.0, 0.5 if breaks and self.how == "flag" else False, False, {}


BROKEN = ("q-learning", "ppo")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in BROKEN else pytest.mark.system)
        for name in PLAYERS
    ],
)
def test_an_environment_that_breaks_its_word_is_a_fault_whoever_plays(name):
    """A flag of one half, and an observation that the space does not have: never a number in a
    buffer."""
    algorithm, shaped, *_ = SMALL[name]
    observation = (
        gymnasium.spaces.Discrete(3) if shaped is PROCESS else gymnasium.spaces.Box(-1, 1, (2,))
    )
    action = space_to_gymnasium(shaped.spec.action)
    environment = GymnasiumEnvs(partial(Breaking, "flag", observation, action), 2)
    state = blank_state(algorithm, environment)
    play = jax.jit(partial(played, algorithm, environment))
    for how, message in (
        ("flag", "its terminated is 0.5 .*; it has to be True or False"),
        ("observation", "its observation is (9 .*, and its space is Discrete|-?inf)"),
    ):
        for copy in environment.vector_env.envs:
            copy.unwrapped.how = how
        with pytest.raises(EnvironmentFault, match=f"copy 0 of Breaking failed .*: {message}"):
            run_compiled(play, state, KEYS[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, simulator, shape",
    [("td", "FrozenLake-v1", ()), ("pqn", "CartPole-v1", (4,)), ("td3", "Pendulum-v1", (3,))],
)
def test_envpool_is_one_kind_of_environment_among_others(name, simulator, shape):
    """One algorithm of each kind of observation and action."""
    pytest.importorskip("envpool", reason="EnvPool is an extra, without wheels for every platform")
    from etude.environments.backends.envpool_envs import EnvPoolEnvs

    algorithm = SMALL[name][0]
    environment = EnvPoolEnvs(simulator, 2)
    state = blank_state(algorithm, environment)
    stage, experience = jax.jit(partial(played, algorithm, environment))(state, KEYS[0])
    assert (stage.episode_length <= 3).all() and experience.observation.shape == (3, 2, *shape)
    assert_alike(jax.eval_shape(algorithm.update, state, experience, KEYS[0])[0], state)


# What is learned where it is known


def q_of_choices(algorithm, state, observation):
    values = state.q(observation)
    return {"q": values, "values": values.max(-1)[None], "action": values.argmax(-1)}


def q_by_search(algorithm, state, observation):
    """Of actions in a box, by the planner that looks for the best."""
    action, _ = algorithm.act(state, observation[None], (), KEYS[0], explore=False)
    return {
        "values": state.q.head.mean(state.q.outputs_for(observation[None], action)),
        "action": action[0, 0],
    }


def quadratic(algorithm, state, observation):
    quadratic = state.q(observation)
    return {
        "values": quadratic.value[None],
        "action": quadratic.action[0],
        "curvature": quadratic.factor[0, 0] ** 2,
    }


TRIED = (-0.5, 0.0, 0.9)


def critics_of_policy(algorithm, state, observation):
    """And what the first critic says of the actions TRIED."""
    action = state.policy(observation)
    tried = jnp.stack(
        [state.critics[0]((observation, jnp.float32([action])))[0] for action in TRIED]
    )
    return {
        "values": jnp.stack([critic((observation, action))[0] for critic in state.critics]),
        "action": action[0],
        "tried": tried,
    }


def agent_of(algorithm, state, observation):
    agent = state.networks if hasattr(state, "networks") else state.learner.networks
    choice, value, _ = agent(observation)
    if hasattr(choice, "logits"):
        return {"values": value[None], "probability": jax.nn.softmax(choice.logits)}
    return {
        "values": value[None],
        "action": choice.mode()[0],
        "std": jnp.exp(agent.policy.log_std[0]),
    }


class Probed(NamedTuple):
    """How one method is trained on every probe, and how near to what is known it comes."""

    algorithm: Any
    read: Callable  # (algorithm, state, observation) to a dict of numbers
    action_space: Any
    num_envs: int
    iterations: int
    value: float  # tolerances: of values, as a share of those above 1; of an action in a box
    action: float = 0.1
    probability: float = 0.95  # and what a right choice has at least


ALIKE = {"learning_rate": 1e-2, "discount": DISCOUNT, "hidden": (16,)}
RANDOM = {"exploration": EpsilonGreedy(1.0, 1.0)}
OFF_POLICY = {
    **ALIKE,
    "activation": "tanh",
    "batch_size": 32,
    "capacity": 1024,
    "warmup_steps": 64,
    "gradient_steps": 4,
    "target_rate": 0.05,
}
REPEATED = PPO(**ALIKE, rollout_length=16, batch_size=64, epochs=4)
STEPWISE = ActorCritic(**ALIKE, rollout_length=8, value_learning_rate=0.01)
EPISODIC = Reinforce(
    **ALIKE | {"learning_rate": 0.02}, value_learning_rate=0.01, batch_steps=64, capacity=64
)
TRUSTED = TRPO(
    **ALIKE,
    kl_limit=0.05,
    damping=0.01,
    rollout_length=16,
    batch_size=64,
    value_epochs=4,
    conjugate_steps=5,
)
SHARED = replace(STEPWISE, shared=True, discount_from="start", control_variate=True)
SHARED_IN_A_BOX = "actor-critic of one body with a control variate in a box"
PROBED = {
    "dqn": Probed(
        DQN(**ALIKE, **RANDOM, batch_size=32, capacity=512, warmup_steps=64, target_interval=20),
        q_of_choices,
        DISCRETE,
        4,
        200,
        0.05,
    ),
    "dqn in a box": Probed(
        DQN(
            **ALIKE | {"hidden": (32,)},
            **RANDOM,
            batch_size=32,
            capacity=1024,
            warmup_steps=64,
            target_interval=20,
            samples=16,
            maximizer=CEM(elites=4, std=1.0, smoothing=0.0),
            iterations=2,
        ),
        q_by_search,
        CONTINUOUS,
        4,
        120,
        0.08,
        0.2,
    ),
    "pqn": Probed(
        PQN(
            **ALIKE,
            initial_epsilon=1.0,
            final_epsilon=1.0,
            learning_rate_decay=12_800.0,
            rollout_length=16,
            batch_size=32,
            epochs=2,
        ),
        q_of_choices,
        DISCRETE,
        8,
        100,
        0.05,
    ),
    "naf": Probed(
        NAF(**OFF_POLICY | {"learning_rate": 5e-3}, initial_noise=0.5, final_noise=0.5),
        quadratic,
        CONTINUOUS,
        4,
        400,
        0.05,
        0.05,
    ),
    "td3": Probed(
        TD3(**OFF_POLICY, exploration_noise=0.5), critics_of_policy, CONTINUOUS, 4, 800, 0.05
    ),
    "reinforce": Probed(EPISODIC, agent_of, DISCRETE, 8, 150, 0.07),
    "actor-critic": Probed(replace(STEPWISE, value_steps=5), agent_of, DISCRETE, 8, 400, 0.07),
    SHARED_IN_A_BOX: Probed(SHARED, agent_of, CONTINUOUS, 8, 300, 0.07, 0.12),
    "trpo": Probed(TRUSTED, agent_of, DISCRETE, 8, 70, 0.07),
    "ppo": Probed(REPEATED, agent_of, DISCRETE, 8, 100, 0.05, probability=0.98),
    "ppo of one body": Probed(
        replace(REPEATED, shared=True), agent_of, DISCRETE, 8, 100, 0.1, probability=0.97
    ),
    "ppo in a box": Probed(REPEATED, agent_of, CONTINUOUS, 8, 150, 0.05),
}
# the others' updates are compared with NumPy or with loops, and their gradients with exact ones
LEARNED = {"pqn"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LEARNED else pytest.mark.system)
        for name in PROBED
    ],
)
def test_values_and_actions_are_learned_where_they_are_known(name):
    """The limit of five steps is no end. The reward in a box falls with the square of the distance
    from the right action."""
    row = PROBED[name]
    told, finite = jax.device_get(
        read_after_training(row.algorithm, row.read, row.action_space, row.num_envs, row.iterations)
    )
    assert finite
    discrete = row.action_space == DISCRETE
    for probe, observation, value in asked(VALUES):
        np.testing.assert_allclose(
            at(told["values"], probe, observation), value, atol=row.value * max(1, value)
        )
        if "q" in told:
            np.testing.assert_allclose(
                at(told["q"], probe, observation), [value, value], atol=row.value * max(1, value)
            )
    for probe, observation, sign in asked(SIGNS):
        one = {key: at(answers, probe, observation) for key, answers in told.items()}
        right = (sign + 1) // 2 if discrete else sign * TARGET
        np.testing.assert_allclose(
            one["values"], 1 if discrete else 0, atol=0.1 if row.read is agent_of else row.value
        )
        if "action" in one:
            assert one["action"] == pytest.approx(right, abs=0 if discrete else row.action)
        if "q" in one:
            np.testing.assert_allclose(one["q"], [-sign, sign], atol=row.value)
        if "probability" in one:
            assert one["probability"][right] > row.probability
        if "std" in one and name.startswith("ppo"):
            assert one["std"] < 0.3
        if "tried" in one:
            np.testing.assert_allclose(one["tried"], -((np.array(TRIED) - right) ** 2), atol=0.1)
        if "curvature" in one:
            assert one["curvature"] == pytest.approx(2, rel=0.05)


@pytest.mark.system
def test_a_time_limit_of_gymnasium_is_no_end():
    """Its true successors reach an algorithm as those of any environment do."""
    gymnasium_probes.register()
    environment, row = (
        GymnasiumEnvs(lambda: gymnasium.make("etude-probes/TimeLimited-v0"), 8),
        PROBED["pqn"],
    )

    @jax.jit
    def values(key):
        return pure_train(row.algorithm, environment, key, 100)[0].algorithm_state.q(jnp.zeros(1))

    np.testing.assert_allclose(values(jax.random.key(0)), [FOREVER, FOREVER], rtol=0.05)
