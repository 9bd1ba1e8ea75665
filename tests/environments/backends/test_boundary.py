"""What environments may return, and that everything else is refused by name."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from etude.environments.backends.boundary import LOOK_EVERY, Boundary
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs, make_layout
from etude.environments.sources import environment_source
from etude.errors import EnvironmentFault, InvalidInput
from etude.spaces import Box as BoxSpec
from etude.spaces import EnvironmentSpec, space_from_gymnasium


def boundary_of(space, count=1):
    """The boundary of environments that observe `space`, and its rows."""
    spec = EnvironmentSpec(
        space_from_gymnasium(space), space_from_gymnasium(Discrete(3), "action"), count
    )
    layout = make_layout(spec)
    rows = np.zeros(count, layout.dtype)
    return Boundary(layout, rows), rows


def fault_of(space, value):
    """What is said of an observation of `space`, also where it is found at the end of a step."""
    boundary, _ = boundary_of(space)
    with pytest.raises(EnvironmentFault) as fault:
        boundary.read_reset(0, (value, {}))
        if found := boundary.read_batch([*range(len(boundary.rows))]):
            raise EnvironmentFault(found[1])
    return str(fault.value)


FLOATS, PICTURE = Box(-1, 1, (3,)), Box(0, 255, (3,), np.uint8)
NESTED = Dict(a=Discrete(3, start=1), b=Tuple((FLOATS, MultiBinary(2))))


@pytest.mark.parametrize(
    ("space", "value", "written"),
    [
        (FLOATS, np.float32([0, 0.5, -1]), [0, 0.5, -1]),
        (FLOATS, np.float64([0, 0.5, 9]), [0, 0.5, 9]),  # beyond its bounds
        (FLOATS, [0, 1, 2], [0, 1, 2]),
        (Box(-1, 1, ()), 0.5, 0.5),
        (Box(-1, 1, ()), np.float32(0.5), 0.5),
        (PICTURE, np.array([0, 7, 255]), [0, 7, 255]),
        (PICTURE, [True, False, True], [1, 0, 1]),
        (Box(-5, 500, (1,), np.int64), np.array([2**31 - 1]), [2**31 - 1]),
        (Discrete(5), 4, 4),
        (Discrete(5, start=-2), np.int64(2), 4),
        (Discrete(5), np.array(3), 3),
        (MultiDiscrete([2, 3], start=[0, 7]), np.array([1, 9]), [1, 2]),
        (MultiBinary(2), [1.0, 0.0], [1, 0]),
        (MultiBinary(2), np.array([True, False]), [1, 0]),
    ],
)
def test_what_the_space_says_is_taken(space, value, written):
    boundary, rows = boundary_of(space)
    boundary.read_reset(0, (value, {}))
    np.testing.assert_array_equal(rows["observation0"][0], written)
    assert boundary.read_batch([*range(len(boundary.rows))]) is None


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (Discrete(5), 1.7, "its observation is 1.7 (float), and its space is Discrete(5), and"),
        (Discrete(5), 9, "its observation is 9 (int), and its space is Discrete(5)"),
        (Discrete(5), np.int64(9), "its observation is"),
        (Discrete(5), -1, "its observation is -1 (int)"),
        (Discrete(5), np.uint64(2**64 - 1), "its observation is"),
        (Discrete(5), np.float32([0.5, 0.2]), "its observation has shape (2,), and its space sa"),
        (MultiDiscrete([2, 3]), [1, 3], "its observation is [1, 3] (list), and its space is Multi"),
        (MultiBinary(2), [0.5, 0], "its observation is [0.5, 0] (list)"),
        (MultiBinary(2), [2, 0], "its observation is [2, 0] (list)"),
        (PICTURE, np.array([0.5, 300, -4]), "(ndarray), and its space is Box(0, 255, (3,), uint8"),
        (PICTURE, np.array([0, 300, 4]), "; integers from 0 to 255 can be taken"),
        (PICTURE, [0, -1, 4], "its observation is [0, -1, 4] (list)"),
        (Box(-5, 500, (1,), np.int64), [2**32 + 1], "; integers from -2147483648 to 214748"),
        (FLOATS, np.float32([np.inf, 0, 0]), "its observation is inf, or beyond float32 at in"),
        (FLOATS, [0, 1e300, 0], "its observation is inf, or beyond float32 at index [1]"),
        (FLOATS, [0, 0, np.nan], "its observation is NaN at index [2]"),
        (FLOATS, None, "its observation is None (NoneType), and its space is Box(-1.0, 1.0, (3,)"),
        (FLOATS, "abc", "its observation is 'abc' (str)"),
        (FLOATS, ["1.5", "2", "3"], "its observation is ['1.5', '2', '3'] (list)"),
        (FLOATS, [1j, 0, 0], "its observation is [1j, 0, 0] (list)"),
        (FLOATS, [[1], [2, 3], 4], "its observation is [[1], [2, 3], 4] (list)"),
        (FLOATS, FLOATS, "(Box), and its space is Box(-1.0, 1.0, (3,), float32)"),
        (Box(-1, 1, (1,)), 0.5, "its observation has shape (), and its space says (1,)"),
        (FLOATS, [0.0, 1, 2, 3, 4], "its observation has shape (5,), and its space says (3,)"),
        (NESTED, {"a": 1}, "its observation is {'a': 1} (dict), which has no 'b'"),
        (NESTED, {"a": 1, "b": ([0, 0, 0],)}, "its observation['b'] is ([0, 0, 0],) (tuple), "),
        (NESTED, {"a": 1, "b": ([0, 0, 0], [0, 3])}, "its observation['b'][1] is [0, 3] (list)"),
        (NESTED, {"a": 0, "b": ([0, 0, 0], [0, 1])}, "its observation['a'] is 0 (int)"),
        (
            NESTED,
            {"a": 1, "b": ([0, 0, np.nan], [0, 1])},
            "its observation['b'][0] is NaN at index",
        ),
        (NESTED, 5, "its observation is 5 (int), which has no 'a', and its space is Dict("),
    ],
    ids=str,
)
def test_what_the_space_does_not_say_is_refused(space, value, message):
    assert message in fault_of(space, value)


def step_of(reward=1.0, terminated=False, truncated=False, info=None):
    """(whether the episode is over, row) of a step of one environment."""
    boundary, rows = boundary_of(FLOATS)
    result = (np.zeros(3, np.float32), reward, terminated, truncated, {} if info is None else info)
    is_over = boundary.read_step(0, result)
    if found := boundary.read_batch([*range(len(boundary.rows))]):
        raise EnvironmentFault(found[1])
    return is_over, rows[0]


@pytest.mark.parametrize(
    ("space", "value", "written", "wrong"),
    [
        (MultiDiscrete([3, 3], dtype=np.int32, start=[1, 1]), [1, 3], [0, 2], [1, 9]),
        (Discrete(5, start=1), np.array(3), 2, np.array(9)),
        (MultiBinary(2), np.int8([0, 1]), [0, 1], np.int8([7, 1])),
        (PICTURE, np.uint8([1, 2, 3]), [1, 2, 3], np.int64([1, 2, 300])),
    ],
    ids=str,
)
def test_a_step_is_read_as_a_reset_is(space, value, written, wrong):
    boundary, rows = boundary_of(space)
    dtype = getattr(space, "dtype", None)
    boundary.read_step(0, (np.asarray(value, dtype), 0.0, False, False, {}))
    np.testing.assert_array_equal(rows["next_observation0"][0], written)
    boundary.read_step(0, (np.asarray(value, rows["observation0"].dtype), 0.0, False, False, {}))
    np.testing.assert_array_equal(rows["next_observation0"][0], written)
    with pytest.raises(EnvironmentFault, match="its observation is"):
        boundary.read_step(0, (wrong, 0.0, False, False, {}))


@pytest.mark.parametrize("which", ["terminated", "truncated"])
def test_flags_are_booleans_or_zeros_and_ones(which):
    for yes in (True, np.True_, 1, 1.0, np.int8(1), np.array([True]), np.array([[1.0]])):
        is_over, row = step_of(**{which: yes})
        assert is_over and row[which] == 1
    for no in (False, np.False_, 0, 0.0, np.array([0])):
        is_over, row = step_of(**{which: no})
        assert not is_over and row[which] == 0
    two = np.array([False, True])
    for wrong in (0.5, 2, -1, 256, 300, np.nan, "True", "", None, two, [], {}, 1j):
        with pytest.raises(EnvironmentFault, match=f"its {which} is .*; it has to be True or Fal"):
            step_of(**{which: wrong})


def test_a_reward_is_one_finite_number():
    for reward in (2, 2.0, np.float64(2), np.int8(2), np.array([2.0]), np.array(2)):
        assert step_of(reward)[1]["reward"] == 2
    assert step_of(True)[1]["reward"] == 1
    for wrong in (None, "1.5", np.zeros(2), [], 1j, {}, np.datetime64("2020-01-01")):
        with pytest.raises(EnvironmentFault, match="its reward is .*; it has to be one number"):
            step_of(wrong)
    for wrong in (np.inf, -np.inf, 1e300, np.float32(np.inf)):
        with pytest.raises(EnvironmentFault, match="its reward is .*, or beyond float32"):
            step_of(wrong)
    with pytest.raises(EnvironmentFault, match="its reward is NaN"):
        step_of(float("nan"))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.float32([0, 0, 0]), r"it returned array\(\[0., .*\(ndarray\), and reset\(\) has"),
        (np.float32([0.1, 0.2]), r"\(ndarray\), and reset\(\) has to return \(observation, info\)"),
        ((0.1, 0.2), r"it returned \(0.1, 0.2\) \(tuple\), and .*: write `return observation, {}`"),
        (None, r"it returned None \(NoneType\)"),
        ((np.zeros(3), {}, 1), "it returned"),
    ],
    ids=str,
)
def test_a_reset_that_returns_no_pair_is_told_the_line_to_write(result, message):
    boundary, _ = boundary_of(FLOATS)
    with pytest.raises(EnvironmentFault, match=message):
        boundary.read_reset(0, result)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((np.zeros(3), 1.0, True, {}), r"it returned 4 values, as in Gym before version 0.26,"),
        ((np.zeros(3), 1.0), r"it returned 2 values, and step\(\) has to return \(obs"),
        (None, r"it returned None \(NoneType\), and step\(\) has to return"),
        ((np.zeros(3), 1.0, False, False, None), r"its info is None \(NoneType\)"),
    ],
    ids=str,
)
def test_a_step_that_returns_no_five_values_is_told_the_line_to_write(result, message):
    boundary, _ = boundary_of(FLOATS)
    with pytest.raises(EnvironmentFault, match=message):
        boundary.read_step(0, result)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("space", [FLOATS, Box(-1, 1, (2, 2)), Dict(x=FLOATS, y=PICTURE)], ids=str)
def test_a_number_that_is_not_finite_is_found_wherever_it_is(space, count):
    """Also among numbers whose squares are beyond float32, which are no fault."""
    for role in ("observation0", "next_observation0", "reward"):
        for i in range(count):
            boundary, rows = boundary_of(space, count)
            rows["steps"], rows["observation0"] = 2**31 - 1, -1e30
            assert boundary.read_batch([*range(len(boundary.rows))]) is None
            field = rows[role]
            field[(i, *[-1] * (field.ndim - 1))] = np.nan
            assert (boundary.read_batch([*range(len(boundary.rows))]) or ())[0] == i


def test_finite_values_beyond_the_bounds_are_counted_and_said_once():
    class Beyond(gymnasium.Env):
        observation_space, action_space = Box(np.float32([-1, -np.inf]), np.inf), Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.float32([-1.5, -9]), 0.0, False, False, {}

    envs = GymnasiumEnvs(Beyond, 2)
    envs.vector_env.reset(0)
    assert envs.notices() == []
    for _ in range(LOOK_EVERY):
        envs.vector_env.step(np.zeros(2, np.int32))
    (notice,) = envs.notices()
    assert notice.startswith(
        "Beyond: an observation at index [0] is -1.5, and its space is Box([ -1. -inf], inf, (2,)"
    )
    assert "so far 2 values in the 4 steps that were looked at (one in 64) lie outside" in notice
    assert envs.notices() == []


def test_copies_of_other_spaces_are_refused_before_they_play():
    """Actions of the first are impossible in the others."""

    class Grows(gymnasium.Env):
        made = 0
        observation_space = Box(-1, 1, (2,))

        def __init__(self):
            Grows.made += 1
            self.action_space = Discrete(1 + Grows.made // 3)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

    with pytest.raises(
        EnvironmentFault,
        match=r"copy 1 of the environment failed when it was made: its action_space is Discrete\("
        r"2\), and that of the others is Discrete\(1\); every copy needs the same",
    ):
        GymnasiumEnvs(Grows, 2)


def test_bounds_of_actions_that_are_no_scale_are_refused():
    widest = np.finfo(np.float32).max
    with pytest.raises(InvalidInput, match=r"cannot be scaled to bounds 6.81e\+38 apart"):
        space_from_gymnasium(Box(-widest, widest, (2,)), "action")
    for space in (Box(-np.inf, np.inf, (2,)), Box(-1e6, 1e6, (2,)), Box(0, np.inf, (2,))):
        assert isinstance(space_from_gymnasium(space, "action"), BoxSpec)
    assert isinstance(space_from_gymnasium(Box(-widest, widest, (2,))), BoxSpec)


def test_actions_of_float64_are_within_their_bounds_and_shapes_of_one_number_are_shapes():
    """float32(0.1) is more than 0.1; MultiBinary(3) is MultiBinary((3,))."""

    class Strict(gymnasium.Env):
        observation_space, action_space = MultiBinary((3,)), Box(-0.1, 0.1, (1,), np.float64)

        def reset(self, *, seed=None, options=None):
            return np.zeros(3, np.int8), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return np.zeros(3, np.int8), 0.0, False, False, {}

    envs = GymnasiumEnvs(Strict, 1).vector_env
    envs.reset(0)
    envs.step(np.float32([[0.1]]))


@pytest.mark.parametrize("space", [Dict({}), Tuple(())], ids=str)
def test_an_observation_of_nothing_is_refused(space):
    class Blind(gymnasium.Env):
        observation_space, action_space = space, Discrete(2)

    with pytest.raises(InvalidInput, match="which holds nothing; observe at least one number"):
        GymnasiumEnvs(Blind, 1)


def test_copies_that_were_made_are_closed_where_a_later_one_cannot_be():
    closed = []

    class Third(gymnasium.Env):
        observation_space, action_space, made = Box(-1, 1, (1,)), Discrete(2), 0

        def __init__(self):
            Third.made += 1
            if Third.made == 4:
                raise OSError("no licence for a fourth")

        def close(self):
            closed.append(self)

    with pytest.raises(EnvironmentFault, match="copy 2 of the environment failed when it was made"):
        GymnasiumEnvs(Third, 3)
    assert len(closed) == 3


@pytest.mark.parametrize("where", ["reset", "step", "make"])
def test_an_environment_that_exits_is_a_fault_and_ends_no_process(where):
    class Exits(gymnasium.Env):
        observation_space, action_space, made = Box(-1, 1, (1,)), Discrete(2), 0

        def __init__(self):
            Exits.made += 1
            self.exit("make" if Exits.made > 1 else "")

        def exit(self, moment):
            if moment == where:
                sys.exit(0)

        def reset(self, *, seed=None, options=None):
            self.exit("reset")
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.exit("step")
            return np.zeros(1, np.float32), 0.0, False, False, {}

    with pytest.raises(EnvironmentFault, match=r"copy 0 of .* failed .*: it called sys.exit\(0\)"):
        envs = GymnasiumEnvs(Exits, 1).vector_env
        envs.reset(0)
        envs.step(np.zeros(1, np.int32))


def test_a_constructor_and_a_module_that_exit_are_refused(tmp_path, monkeypatch):
    class Exits(gymnasium.Env):
        def __init__(self):
            sys.exit(0)

    with pytest.raises(InvalidInput, match="Exits.. raises SystemExit: 0"):
        _ = environment_source(Exits).outline(1, "gymnasium")
    (tmp_path / "exits_at_once.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInput, match="'exits_at_once' cannot be imported .SystemExit: 0"):
        _ = environment_source("exits_at_once:Any-v0").outline(1, "gymnasium")
