"""The reward of goals: registered, of a JAX environment, and computed by one of Gymnasium."""

import importlib.util
import pickle

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_goals import (
    NEAR,
    DisagreeingLine,
    EarlyLine,
    EndingLine,
    EndlessLine,
    Line,
    SingleLine,
)
from gymnasium_probes import Counter

import etude
from etude.environments import goals, probes
from etude.environments.backends.gymnasium_envs import spec_from_factory
from etude.environments.backends.host_goal_reward import HostGoalReward
from etude.environments.goals import GoalReward, goal_reward_for
from etude.environments.sources import environment_source
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import EnvironmentFault, InvalidInput
from etude.spaces import Box, Composite, EnvironmentSpec
from etude.struct import replace, static, struct
from etude.training import run_compiled


def negative_distance(achieved_goal, desired_goal):
    return -jnp.abs(achieved_goal - desired_goal).sum()


def is_near(achieved_goal, desired_goal):
    return jnp.abs(achieved_goal - desired_goal).sum() < NEAR


def random_goals(*shape, seed=0):
    """Achieved and desired goals and flags, of which about half are reached."""
    rng = np.random.default_rng(seed)
    desired = rng.integers(-3, 4, (*shape, 1)).astype(np.float32)
    achieved = desired + rng.integers(0, 2, desired.shape).astype(np.float32)
    return achieved, desired, rng.integers(0, 2, shape).astype(bool)


@pytest.fixture
def registry(monkeypatch):
    """The table of registered rewards, which ends with the test."""
    monkeypatch.setattr(goals, "GOAL_REWARDS", {})


@pytest.mark.parametrize("axes", [(), (3,), (2, 3)])
def test_functions_of_single_goals_take_any_leading_axes(axes):
    achieved, desired, flags = random_goals(*axes)
    distance = np.abs(achieved - desired)[..., 0]
    reward, terminated = GoalReward(negative_distance)(
        *map(jnp.asarray, (achieved, desired, flags))
    )
    np.testing.assert_array_equal(reward, -distance)
    np.testing.assert_array_equal(terminated, flags)
    ends = GoalReward(negative_distance, is_near)
    _, terminated = ends(*map(jnp.asarray, (achieved, desired, flags)))
    np.testing.assert_array_equal(terminated, distance < NEAR)
    assert reward.dtype == jnp.float32 and terminated.dtype == bool
    assert ends == GoalReward(negative_distance, is_near) and {ends: "hashable"}


def test_a_reward_that_is_no_number_is_named():
    with pytest.raises(InvalidInput, match=r"reward of two goals of shape \[1\] has shape \[1\]"):
        GoalReward(lambda a, b: a - b)(jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.zeros(4, bool))


@struct
class Still:
    """A goal that is where it was drawn, written in JAX."""

    goal_reward: GoalReward = static(GoalReward(negative_distance))
    observation_space = Composite((Box((1,)), Box((1,))), ("achieved_goal", "desired_goal"))
    action_space = probes.DISCRETE

    def reset(self, key):
        goal = jax.random.uniform(key, (1,))
        return goal, {"achieved_goal": goal, "desired_goal": goal}

    def step(self, state, action, key):
        _, result = probes.Counter().step(jnp.zeros(1), action, key)
        observation = {"achieved_goal": state, "desired_goal": state}
        return state, replace(result, next_observation=observation)


def test_an_environment_in_jax_says_it_itself():
    for environment in (Still(), TimeLimit(Still(), 5)):
        source = environment_source(environment)
        assert goal_reward_for(source.outline(3, "jax").spec) == GoalReward(negative_distance)
        assert source.make(2, "jax").spec.goal_reward == Still().goal_reward
    stack = etude.make(Still(), frame_stack=2)
    assert stack.spec.goal_reward == Still().goal_reward
    assert environment_source(probes.Counter()).make(1, "jax").spec.goal_reward is None
    assert (
        environment_source(TimeLimit(probes.Counter(), 5)).make(1, "jax").spec.goal_reward is None
    )


def test_a_goal_reward_that_cannot_be_called_is_refused():
    with pytest.raises(InvalidInput, match=r"goal_reward of Still is -1.0; it is an etude.env"):
        environment_source(Still(-1.0))


def test_what_is_registered_comes_first(registry):
    spec = spec_from_factory(EndlessLine)
    assert isinstance(goal_reward_for(spec), HostGoalReward)
    etude.register_goal_reward("module:House/Line-v0", negative_distance, is_near)
    assert goal_reward_for(replace(spec, id="House/Line-v0")) == GoalReward(
        negative_distance, is_near
    )
    assert isinstance(goal_reward_for(replace(spec, id="House/Line-v1")), HostGoalReward)
    with pytest.raises(InvalidInput, match="reward is None; give a function of"):
        etude.register_goal_reward("House/Line-v0", None)
    with pytest.raises(InvalidInput, match="terminated is True; give a function of"):
        etude.register_goal_reward("House/Line-v0", negative_distance, True)


def test_an_environment_without_one_is_told_the_way_out():
    spec = spec_from_factory(Counter)
    with pytest.raises(InvalidInput, match="not known in this environment: give it a method comp"):
        goal_reward_for(spec)
    with pytest.raises(InvalidInput, match=r"etude.register_goal_reward\('House-v0', reward\)"):
        goal_reward_for(replace(spec, id="House-v0"))


def host_reward(line, seen):
    """The reward of an environment that is added to `seen` when it is made."""

    def make():
        seen.append(line())
        return gymnasium.wrappers.TimeLimit(seen[-1], 9)

    return HostGoalReward(make)


@pytest.mark.parametrize("line", [EndlessLine, EndingLine, SingleLine])
@pytest.mark.parametrize("axes", [(), (5,), (2, 40)])
def test_gymnasium_computes_it_in_its_own_types(line, axes):
    achieved, desired, flags = random_goals(*axes)
    seen = []
    function = host_reward(line, seen)
    reward, terminated = jax.jit(function)(achieved, desired, flags)
    near = np.abs(achieved - desired)[..., 0] < NEAR
    np.testing.assert_array_equal(reward, -1.0 * ~near)
    np.testing.assert_array_equal(terminated, flags if line is EndlessLine else near)
    assert reward.dtype == jnp.float32 and terminated.dtype == bool and len(seen) == 1
    seen[0].calls.clear()
    np.testing.assert_array_equal(function(achieved, desired, flags)[0], reward)
    rows = max(1, flags.size)  # one call, or one for each row
    assert seen[0].calls == ([(1,)] * rows if line is SingleLine else [(rows, 1)])
    assert len(seen) == 1


def test_an_environment_may_know_it_after_a_reset_alone():
    class Late(EndlessLine):
        def reset(self, **options):
            self.scale = 3.0
            return super().reset(**options)

        def compute_reward(self, achieved_goal, desired_goal, info):
            return self.scale * super().compute_reward(achieved_goal, desired_goal, info)

    achieved, desired, flags = random_goals(9)
    reward, _ = HostGoalReward(Late)(achieved, desired, flags)
    np.testing.assert_array_equal(reward, -3.0 * (achieved != desired)[:, 0])


def test_a_batch_without_rows_is_no_sample():
    seen = []
    function = host_reward(SingleLine, seen)
    reward, terminated = function(*random_goals(0))
    assert reward.shape == terminated.shape == (0,)
    np.testing.assert_array_equal(function(*random_goals(0, 3))[0], np.zeros((0, 3)))
    achieved, desired, flags = random_goals(9)
    np.testing.assert_array_equal(
        function(achieved, desired, flags)[0], -1.0 * (achieved != desired)[:, 0]
    )


class NeedsInfo(Line):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return info["bonus"]


class NotANumber(Line):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return np.where(achieved_goal > desired_goal, np.nan, 0)[..., 0]


class ForgetsABatch(Line):
    """Takes the first batch only, which shows whether it takes batches."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        self.calls.append(len(achieved_goal))
        return np.zeros(len(achieved_goal) if max(self.calls) == len(achieved_goal) else 1)[
            slice(None) if achieved_goal.ndim == 2 else 0
        ]


@pytest.mark.parametrize(
    "line, message",
    [
        (NeedsInfo, "compute_reward of NeedsInfo raised KeyError: 'bonus'. It gets an empty info"),
        (NotANumber, r"NotANumber is NaN where \[.*\] was achieved and \[.*\] desired"),
        (ForgetsABatch, r"ForgetsABatch returned shape \(1,\) for a batch of 9 goals"),
    ],
)
def test_what_fails_is_a_fault_that_names_the_function(line, message):
    function = HostGoalReward(line)
    with pytest.raises(EnvironmentFault, match=message):
        run_compiled(jax.jit(function), *random_goals(9))


def test_every_spec_has_it_and_one_environment_is_made_late():
    made = []

    def make():
        made.append(EndingLine())
        return made[-1]

    source = environment_source(make)
    environment = source.make(3, "gymnasium")
    assert len(made) == 4  # three copies, and the one whose spaces are read
    function = goal_reward_for(environment.spec)
    assert function is source.outline(2, "gymnasium").spec.goal_reward
    assert {environment.spec: "hashable"} and len(made) == 4
    function(*random_goals(4))
    assert len(made) == 5


def test_another_process_makes_its_own():
    function = HostGoalReward(EndingLine)
    function(*random_goals(4))
    there = pickle.loads(pickle.dumps(function))
    assert there.env is None and function.env is not None
    reward, _ = there(*random_goals(4))
    np.testing.assert_array_equal(reward, function(*random_goals(4))[0])
    spec = pickle.loads(pickle.dumps(environment_source(EndingLine).outline(2, "gymnasium").spec))
    assert isinstance(goal_reward_for(spec), HostGoalReward)


def test_an_observation_without_both_goals_has_none():
    class OneGoal(Line):
        def __init__(self):
            super().__init__()
            spaces = dict(self.observation_space.spaces)
            del spaces["desired_goal"]
            self.observation_space = gymnasium.spaces.Dict(spaces)

    assert spec_from_factory(OneGoal).goal_reward is None
    assert EnvironmentSpec(Box((1,)), Box((1,))).goal_reward is None


def try_out(environment, backend="gymnasium", own=None):
    goals.check_goal_reward(etude.make(environment, backend=backend), "Line", own)


@pytest.mark.parametrize("line", [EndlessLine, EndingLine, SingleLine])
def test_a_reward_that_is_that_of_the_steps_passes(line):
    try_out(line)


MEND = "so hindsight would learn another task; mend compute_reward and compute_terminated of the"


@pytest.mark.parametrize(
    "line, message",
    [
        (
            DisagreeingLine,
            r"reward of goals is -1.0 where \[.*\] is achieved and \[.*\] desired, and there a "
            f"step of Line had -2.0, {MEND} env",
        ),
        (EarlyLine, f"termination of goals is False where .* a step of Line had True, {MEND}"),
    ],
)
def test_a_reward_that_is_not_that_of_the_steps_is_refused(line, message):
    with pytest.raises(InvalidInput, match=message):
        try_out(line)


def test_an_environment_in_jax_is_tried_too():
    with pytest.raises(InvalidInput, match="had 1.0, so .*; mend the goal_reward of the env"):
        try_out(Still(), "jax")
    try_out(
        Still(GoalReward(lambda achieved, desired: 1 + negative_distance(achieved, desired))), "jax"
    )


class Tenths(Line):
    """Walks in steps of a tenth around the goal 0, which is reached at exactly three of them."""

    def reset(self, **options):
        super().reset(**options)
        self.position, self.goal = np.full(1, 0.2), np.zeros(1)
        return self._observe(), {}

    def step(self, action):
        self.position = np.round(self.position + (action - 1) / 10, 1)
        return (
            self._observe(),
            float(self.compute_reward(self.position, self.goal, {})),
            False,
            False,
            {},
        )

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -1.0 * (np.abs(achieved_goal - desired_goal)[..., 0] > 0.3)


def test_goals_that_are_just_reached_may_be_rounded():
    """In float32 the distance of 0.3 is another number."""
    try_out(Tenths)


def register_line(name, line):
    if name not in gymnasium.registry:
        gymnasium.register(name, line)


class Far(Line):
    """Whose goal is so far that no step reaches it."""

    def reset(self, **options):
        super().reset(**options)
        self.position, self.goal = np.zeros(1), np.full(1, 99.0)
        return self._observe(), {}


class FarLine(Far, EndlessLine):
    pass


class FarEnd(Far, EndingLine):
    pass


def sparse(achieved_goal, desired_goal):
    return -1.0 * (jnp.abs(achieved_goal - desired_goal)[0] > NEAR)


def test_what_is_registered_is_compared_with_the_environment_where_random_play_does_not_tell(
    registry,
):
    """The goal is so far that no step reaches it."""

    register_line("etude-tests/FarLine-v0", FarLine)
    own = environment_source("etude-tests/FarLine-v0").spec.goal_reward
    etude.register_goal_reward("etude-tests/FarLine-v0", sparse)
    try_out("etude-tests/FarLine-v0", own=own)
    etude.register_goal_reward("etude-tests/FarLine-v0", lambda achieved, desired: -1.0)
    try_out("etude-tests/FarLine-v0")  # no step tells
    with pytest.raises(
        InvalidInput,
        match="is -1.0 where .* desired, and there Line itself has -?0.0, .*; mend the functions "
        "registered for 'etude-tests/FarLine-v0' with etude.register_goal_reward",
    ):
        try_out("etude-tests/FarLine-v0", own=own)


def test_a_termination_that_is_missing_is_found(registry):
    """The environment ends at goals that no step reaches, and what is registered says nothing."""

    register_line("etude-tests/FarEnd-v0", FarEnd)
    own = environment_source("etude-tests/FarEnd-v0").spec.goal_reward
    etude.register_goal_reward("etude-tests/FarEnd-v0", sparse)
    with pytest.raises(InvalidInput, match="termination of goals is False .* itself has True"):
        try_out("etude-tests/FarEnd-v0", own=own)
    etude.register_goal_reward("etude-tests/FarEnd-v0", sparse, is_near)
    try_out("etude-tests/FarEnd-v0", own=own)


def test_a_reward_that_jax_cannot_trace_is_told_how_to_be_written(registry):
    register_line("etude-tests/EndlessLine-v0", EndlessLine)
    for reward in (
        lambda achieved, desired: float(achieved[0] == desired[0]),
        lambda achieved, desired, info: 0.0,
    ):
        etude.register_goal_reward("etude-tests/EndlessLine-v0", reward)
        with pytest.raises(InvalidInput, match="raised .*; it is traced by JAX: write it in jax"):
            try_out("etude-tests/EndlessLine-v0")


class Doubled(gymnasium.Wrapper):
    """Rewards twice as much, in steps and for other goals."""

    def step(self, action):
        observation, reward, *ends = self.env.step(action)
        return observation, 2 * reward, *ends

    def compute_reward(self, achieved_goal, desired_goal, info):
        return 2 * self.env.get_wrapper_attr("compute_reward")(achieved_goal, desired_goal, info)


def test_a_wrapper_may_compute_it():
    try_out(lambda: Doubled(EndingLine()))
    achieved, desired, flags = random_goals(9)
    reward, _ = HostGoalReward(lambda: Doubled(EndingLine()))(achieved, desired, flags)
    np.testing.assert_array_equal(reward, -2.0 * (achieved != desired)[:, 0])


@pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="Gymnasium-Robotics is an extra"
)
@pytest.mark.parametrize("name", ["FetchReach-v4", "PointMaze_UMaze-v3"])
def test_robots_say_it_of_their_own_steps(name):
    source = environment_source(name)
    environment = source.make(1, source.choose_backend("auto"))
    goals.check_goal_reward(environment, name)
    assert goal_reward_for(environment.spec).takes_batches["compute_reward"]
