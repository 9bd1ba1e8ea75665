"""Every kind of fault is found, once, with its first episode and step; sound episodes have none."""

import gymnasium_spaces
import jax
import numpy as np
import pytest

from etude.data.dataset import make_dataset
from etude.data.faults import find_faults
from etude.errors import InvalidInput
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, space_from_gymnasium

SPEC = EnvironmentSpec(
    Composite((Discrete(3, start=5), Box((2,))), ("door", "place")),
    Box((2,), low=-1.0, high=(1.0, 2.0)),
)


def episodes(count=4, steps=3):
    """The fields of sound episodes."""
    return {
        "observations": [
            {"door": np.array([5, 6, 7, 5]), "place": np.zeros((steps + 1, 2))}
            for _ in range(count)
        ],
        "actions": [np.zeros((steps, 2)) for _ in range(count)],
        "rewards": [np.ones(steps) for _ in range(count)],
        "terminations": [np.arange(steps) == steps - 1 for _ in range(count)],
        "truncations": [np.zeros(steps, bool) for _ in range(count)],
    }


def test_all_kinds_are_found_at_once():
    fields = episodes()
    fields["actions"][1][2] = [1.5, np.nan]
    fields["actions"][3][:, 1] = 9
    fields["observations"][2]["place"][3, 1] = np.inf
    fields["observations"][0]["door"][1] = 8
    fields["rewards"][1][0] = np.nan
    fields["terminations"][2][0] = True
    fields["terminations"][3][2] = False
    fields["truncations"][1] = np.full(3, 2)
    faults = find_faults(SPEC, fields)
    assert [(fault.message.partition("; ")[0], *fault[1:]) for fault in faults] == [
        ("episode 0, step 1: observations['door'] is 8", 1, 1),
        ("episode 1, step 2: actions[1] is nan", 1, 1),
        ("episode 1, step 2: actions[0] is 1.5", 4, 2),
        ("episode 1, step 0: rewards is nan", 1, 1),
        ("episode 1, step 0: truncations is 2", 3, 1),
        ("episode 1, step 0: truncations is 2", 2, 1),
        ("episode 2, step 3: observations['place'][1] is inf", 1, 1),
        ("episode 2, step 0: terminations is True", 1, 1),
        ("episode 3, step 2: truncations is False", 1, 1),
    ]
    assert str(faults[2]).endswith("in the units of that space (4 in all, in 2 episodes)")
    assert str(faults[0]).endswith("whose choices count from its start")
    # `make_dataset` names one of them
    with pytest.raises(InvalidInput) as refused:
        make_dataset(SPEC, **fields)
    assert str(refused.value) in [fault.message for fault in faults]


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("actions", np.zeros((3, 1)), "actions of episode 1 has the shape (3, 1)"),
        ("actions", np.zeros((0, 2)), "episode 1 has 0 steps; leave out"),
        ("actions", 3.0, "actions of episode 1 is the number 3.0; give the actions of all"),
        ("actions", [[1], [1, 2]], "actions of episode 1 is no array"),
        ("rewards", np.array(["a"] * 3), "rewards of episode 1 has the dtype <U1"),
        ("rewards", np.zeros(4), "rewards of episode 1 has 4 rows"),
        ("observations", np.zeros(3), "observations of episode 1 is a ndarray; its space needs"),
        ("observations", {"door": [5] * 4}, "observations of episode 1 is a dict with the keys"),
        (
            "observations",
            {"door": np.full(3, 5), "place": np.zeros((4, 2))},
            "observations['door'] of episode 1 has 3 rows, as many as there are steps",
        ),
    ],
)
def test_what_has_not_the_form_of_an_episode_is_a_fault_beside_others(field, value, expected):
    fields = episodes()
    fields[field][1] = value
    fields["rewards"][3][0] = np.inf
    messages = [str(fault) for fault in find_faults(SPEC, fields)]
    assert expected in messages[0]
    assert messages[1].startswith("episode 3, step 0: rewards is inf") and len(messages) == 2


def test_numbers_of_episodes_that_differ_are_the_one_fault():
    fields = episodes()
    del fields["rewards"][0]
    (fault,) = find_faults(SPEC, fields)
    assert "actions of 4, rewards of 3" in str(fault)
    (fault,) = find_faults(SPEC, {field: [] for field in fields})
    assert "no episodes" in str(fault)


def test_an_unfinished_episode_is_no_fault_where_it_is_truncated():
    fields = episodes()
    fields["terminations"][2] = np.zeros(3, bool)
    assert len(find_faults(SPEC, fields)) == 1
    assert not find_faults(SPEC, fields, truncate_unfinished=True)


def test_sound_episodes_of_every_space_have_no_faults():
    for observation_space in gymnasium_spaces.OBSERVATIONS.values():
        for action_space in gymnasium_spaces.ACTIONS.values():
            spec = EnvironmentSpec(
                space_from_gymnasium(observation_space),
                space_from_gymnasium(action_space, "action"),
            )
            stacked = lambda space, n: jax.tree.map(
                lambda *x: np.stack(x), *(space.sample() for _ in range(n))
            )
            fields = {
                "observations": [stacked(observation_space, 3)],
                "actions": [stacked(action_space, 2)],
                "rewards": [np.zeros(2)],
                "terminations": [np.array([0, 1])],
                "truncations": [np.array([0, 1])],
            }
            assert not find_faults(spec, fields)
