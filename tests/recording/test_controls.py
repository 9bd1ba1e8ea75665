"""Keys, chords, the mouse and sticks as actions, against tables written by hand."""

import gymnasium
import numpy as np
import pytest

from etude.environments.registry import register_plugins
from etude.errors import InvalidInput
from etude.recording.bindings import (
    KEYS_OF,
    TURN_BASED,
    default_keys,
    finite_bounds,
    is_turn_based,
    name_without_version,
    parse_bindings,
)
from etude.recording.controls import Controls, make_controls
from etude.spaces import (
    Box,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    MultiDiscrete,
    space_from_gymnasium,
)

LANDER = Discrete(4)
STICK = Box((2,), low=(-1.0, -3.0), high=(1.0, 1.0))


def controls(space, keys, **options):
    return Controls(space, parse_bindings(keys, space), **options)


@pytest.mark.parametrize(
    ("space", "keys", "message"),
    [
        (LANDER, "left", "'left', which is not KEY=VALUE or KEY=VALUE@ELEMENT; write left=0"),
        (LANDER, "", "'', which is not KEY=VALUE"),
        (LANDER, "shift=1", "'shift=1', and 'shift' is no key for it; there are left"),
        (LANDER, "left+left=1", "'left' is no key for it"),
        (LANDER, "left+none=1", "'none' is no key for it"),
        (LANDER, "left=1@0", r"'left=1@0', and the action space is Discrete\(n=4"),
        (LANDER, "left=4", "'left=4', and .* give a whole number from 0 to 3"),
        (LANDER, "left=0.5", "give a whole number from 0 to 3"),
        (LANDER, "left=1,left=2", "which says twice what left: action 1 does"),
        (LANDER, "none=0", "in which no key does anything"),
        (STICK, "left=1", "'left=1', and the action space is Box"),
        (STICK, "left=1@2", "an action has 2 elements, counted from 0"),
        (STICK, "down=-4@1", "give a number from -3 to 1"),
        (Discrete(3, start=-1), "a=2", "give a whole number from -1 to 1"),
        (MultiBinary((2,)), "a=2@0", "give a whole number from 0 to 1"),
    ],
)
def test_keys_that_do_not_fit_are_named(space, keys, message):
    with pytest.raises(InvalidInput, match=message):
        parse_bindings(keys, space)


def test_most_keys_count_then_the_latest():
    hands = controls(Discrete(6), "left=1,right=2,left+up=3,up=4,none=5")
    assert hands.action() == 5
    told = []
    for step in ("+left", "+right", "-right", "+up", "-left", "-up", "+right", "+left"):
        (hands.press if step[0] == "+" else hands.release)(step[1:])
        hands.tapped.clear()
        told.append(hands.action())
    assert told == [1, 2, 1, 3, 4, 5, 2, 1]
    assert type(told[0]) is int


def test_without_an_action_of_no_key_the_latest_goes_on():
    hands = controls(Discrete(2), "left=0,right=1")
    hands.press("right")
    assert hands.action() == 1
    hands.release("right")
    assert [hands.action(), hands.action()] == [1, 1]
    assert not hands.press("up") and hands.press("left")


def test_a_key_that_is_only_touched_counts_for_one_step():
    hands = controls(LANDER, "left=1,none=0")
    hands.press("left")
    hands.release("left")
    assert [hands.action(), hands.action()] == [1, 0]
    hands.press("left")
    hands.release_all()
    assert hands.action() == 0


def test_elements_of_a_box_ramp_to_the_sum_of_their_keys_and_back():
    hands = controls(STICK, "left=-1@0,right=1@0,down=-2@1,none=0.5@1", ramp_steps=4)
    hands.press("right")
    hands.press("down")
    values = [hands.action() for _ in range(5)]
    np.testing.assert_allclose(np.array(values)[:, 0], [0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(np.array(values)[:, 1], [-0.125, -0.75, -1.375, -2, -2])
    assert values[0].dtype == np.float32 and values[0].shape == (2,)
    hands.press("left")  # against each other
    np.testing.assert_allclose([hands.action()[0] for _ in range(5)], [0.75, 0.5, 0.25, 0, 0])
    hands.release("left")
    hands.release("right")
    hands.release("down")
    np.testing.assert_allclose([hands.action()[1] for _ in range(5)][-1], 0.5)


def test_arrays_of_choices_are_set_one_by_one():
    space = MultiDiscrete((3, 3), (0, 0), (2,))
    hands = controls(space, "left=0@0,right=2@0,none=1@0,up=2@1")
    hands.press("right")
    assert hands.action().tolist() == [2, 0]
    hands.press("up")
    hands.release("right")
    hands.action()
    assert hands.action().tolist() == [1, 2] and hands.action().dtype == np.int64
    hands = controls(MultiBinary((3,)), default_keys("", MultiBinary((3,))))
    hands.press("1")
    assert hands.action().tolist() == [0, 1, 0]


def test_the_mouse_is_the_action_of_a_box_of_two():
    hands = Controls(STICK, (), use_mouse=True)
    np.testing.assert_allclose(hands.action(), [0, 0])
    hands.point(1, -1)
    np.testing.assert_allclose(hands.action(), [1, -3])
    hands.point(-0.5, 7)  # above the picture
    np.testing.assert_allclose(hands.action(), [-0.5, 1])
    with pytest.raises(InvalidInput, match="the mouse moves in two directions, and the action"):
        Controls(Box((3,)), (), use_mouse=True)


def test_sticks_lean_elements_of_a_box_and_press_arrows_elsewhere():
    hands = controls(STICK, "left=-1@0,right=1@0")
    hands.press("right")
    assert not hands.lean(0, 0.05)  # within the dead zone
    np.testing.assert_allclose(hands.action(), [1, 0])
    assert hands.lean(0, -0.5) and hands.lean(1, 1.0)
    np.testing.assert_allclose(hands.action(), [-0.5, -3])
    hands = controls(LANDER, "left=1,right=3,up=2,none=0")
    assert hands.lean(0, -0.9) and not hands.lean(2, 1.0)
    assert hands.action() == 1
    assert hands.lean(1, -1.0)
    assert hands.action() == 2
    hands.lean(0, 0.0)
    hands.lean(1, 0.1)
    hands.action()
    assert hands.action() == 0


def test_a_stick_is_one_press_until_it_comes_back_and_lets_keys_be():
    hands = controls(LANDER, "left=1,right=3,up=2,none=0")
    hands.press("left")
    assert not hands.lean(0, 0.01)  # at rest
    assert hands.action() == 1
    assert [hands.lean(0, value) for value in (0.4, 0.6, 0.9, 0.6)] == [False, True, False, False]
    assert hands.action() == 3
    hands.lean(0, 0.2)
    hands.action()
    assert hands.action() == 1  # which is held
    hands = controls(STICK, "left=-1@0,right=1@0")
    assert [hands.lean(1, value) for value in (0.6, 0.9, 0.0)] == [True, False, False]
    hands.lean(1, 1.0)
    assert hands.action()[1] == -3
    hands.lean(1, 0.0)
    assert hands.action()[1] == 0  # no key moves this element


def test_bounds_of_a_box_for_a_person():
    space = Box((3,), low=np.array([2, -np.inf, -np.inf]), high=np.array([np.inf, -3, np.inf]))
    np.testing.assert_array_equal(finite_bounds(space), [[2, -5, -1], [4, -3, 1]])
    hands = controls(Box((1,)), "left=-5@0")
    hands.press("left")
    assert hands.action() == -5


def test_the_keys_of_every_named_environment_fit_it():
    """They are those of the newest version; whatever is held, the environment takes the action."""
    register_plugins("etude/")
    for name, texts in KEYS_OF.items():
        newest = max(id for id in gymnasium.registry if name_without_version(id) == name)
        env = gymnasium.make(newest, disable_env_checker=True)
        space = space_from_gymnasium(env.action_space, "action")
        assert default_keys(newest, space) in texts
        hands = make_controls(EnvironmentSpec(Box((1,)), space, id=newest), None, 50.0)
        for key in hands.keys:
            hands.press(key)
            assert env.action_space.contains(hands.action())
            hands.release(key)
        env.close()
    assert set(TURN_BASED) <= KEYS_OF.keys()
    assert default_keys("LunarLander-v3", Box((2,), low=-1.0, high=1.0)).startswith("up=1@0")
    assert is_turn_based("FrozenLake-v1") and not is_turn_based("CartPole-v1")


def test_unknown_environments_have_number_keys_and_arrows():
    assert default_keys("My-v0", Discrete(3, start=-1)) == "0=-1,1=0,2=1,none=-1"
    assert default_keys("My-v0", Box((3,), low=-2.0)) == ("left=-2@0,right=1@0,down=-2@1,up=1@1")
    with pytest.raises(InvalidInput, match="My-v0 has the actions Discrete.n=37, .*--keys, such"):
        default_keys("My-v0", Discrete(37))
    with pytest.raises(InvalidInput, match="no keys by default; give them with --keys"):
        default_keys("My-v0", MultiDiscrete((2,), (0,), (1,)))
