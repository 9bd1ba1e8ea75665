"""Datasets: what is recorded is what is learned from, and what is wrong is refused by its place."""

import gymnasium_spaces
import jax
import numpy as np
import pytest

from etude.data.dataset import (
    Dataset,
    check_dataset_spaces,
    episode_returns,
    episode_starts,
    make_dataset,
    to_recorded_arrays,
)
from etude.data.transition import zeros_like_spec
from etude.errors import InvalidInput
from etude.spaces import (
    Box,
    Composite,
    Discrete,
    EnvironmentSpec,
    MultiBinary,
    MultiDiscrete,
    leaves_with_path,
    space_from_gymnasium,
)
from etude.struct import replace
from etude.trees import content_hash

LENGTHS = [3, 1, 2]
SPEC = EnvironmentSpec(
    Composite((Discrete(3, start=5), Box((2,))), ("door", "position")),
    Box((2,), low=(-2.0, 0.0), high=(2.0, 10.0)),
    8,
    "House-v0",
)


def recording():
    """Three episodes, end to end: terminated, truncated, and both."""
    return {
        "observations": {
            "door": np.array([5, 6, 7, 5, 6, 7, 5, 6, 7]),
            "position": np.arange(18.0).reshape(9, 2),
        },
        "actions": np.array([[-2.0, 0], [0, 5], [2, 10], [1, 5], [-1, 7.5], [0, 0]]),
        "rewards": np.array([1.0, 2, 3, 0.5, -1, 1]),
        "terminations": np.array([False, False, True, False, False, True]),
        "truncations": np.array([False, False, False, True, False, True]),
        "episode_lengths": np.array(LENGTHS),
    }


def by_episode(recorded):
    """The same, as sequences with one entry for each episode."""
    lengths = recorded["episode_lengths"]
    split = lambda x, counts: np.split(x, np.cumsum(counts)[:-1])
    doors, positions = (split(x, lengths + 1) for x in recorded["observations"].values())
    return {
        "observations": [
            {"door": door, "position": position}
            for door, position in zip(doors, positions, strict=True)
        ],
        **{
            field: split(recorded[field], lengths)
            for field in ("actions", "rewards", "terminations", "truncations")
        },
    }


def equal(a, b):
    """Same structure, types and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


# What is recorded


def test_a_recording_becomes_transitions_in_the_terms_of_the_policy():
    dataset = make_dataset(SPEC, **recording())
    steps = dataset.transitions
    assert (dataset.num_steps, dataset.num_episodes) == (6, 3)
    assert dataset.spec == replace(SPEC, num_envs=1)
    np.testing.assert_array_equal(dataset.episode_lengths, LENGTHS)
    np.testing.assert_array_equal(steps.observation["door"], [0, 1, 2, 1, 0, 1])
    np.testing.assert_array_equal(steps.next_observation["door"], [1, 2, 0, 2, 1, 2])
    np.testing.assert_array_equal(steps.observation["position"][:, 0], [0, 2, 4, 8, 12, 14])
    # the true successors, never the first observation of the next episode
    np.testing.assert_array_equal(steps.next_observation["position"][:, 0], [2, 4, 6, 10, 14, 16])
    np.testing.assert_array_equal(
        steps.action, [[-1, -1], [0, 0], [1, 1], [0.5, 0], [-0.5, 0.5], [0, -1]]
    )
    np.testing.assert_array_equal(steps.terminated, [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(steps.truncated, [0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(episode_starts(dataset), [0, 3, 4])
    np.testing.assert_array_equal(episode_returns(dataset), [6, 0.5, 0])


def test_episodes_one_by_one_are_the_same_dataset():
    end_to_end = make_dataset(SPEC, **recording())
    for sequence in (list, tuple):
        episodes = {field: sequence(x) for field, x in by_episode(recording()).items()}
        equal(make_dataset(SPEC, **episodes), end_to_end)


def test_plain_lists_and_other_widths_are_the_same_dataset():
    recorded = recording()
    changed = recorded | {
        "observations": {
            "position": recorded["observations"]["position"].astype(int).tolist(),
            "door": recorded["observations"]["door"].astype(np.uint8),
        },
        "actions": recorded["actions"].astype(np.float16),
        "rewards": recorded["rewards"].astype(">f4"),
        "terminations": recorded["terminations"].astype(np.int64),
        "episode_lengths": LENGTHS,
    }
    equal(make_dataset(SPEC, **changed), make_dataset(SPEC, **recorded))


def test_a_dataset_owns_its_arrays():
    recorded = recording()
    dataset = make_dataset(SPEC, **recorded)
    for array in jax.tree.leaves(recorded):
        array[...] = 1
    equal(dataset, make_dataset(SPEC, **recording()))


@pytest.mark.parametrize("kind", gymnasium_spaces.OBSERVATIONS)
def test_every_space_is_stored_as_a_policy_sees_it_and_had_back(kind):
    observation_space = gymnasium_spaces.OBSERVATIONS[kind]
    for action_space in gymnasium_spaces.ACTIONS.values():
        spec = EnvironmentSpec(
            space_from_gymnasium(observation_space), space_from_gymnasium(action_space, "action")
        )
        recorded = recording() | {
            "observations": gymnasium_spaces.stacked(observation_space, 9),
            "actions": gymnasium_spaces.stacked(action_space, 6),
        }
        dataset = make_dataset(spec, **recorded)
        expected = jax.eval_shape(lambda spec=spec: zeros_like_spec(spec))
        for leaf, one in zip(
            jax.tree.leaves(dataset.transitions), jax.tree.leaves(expected), strict=True
        ):
            assert (leaf.dtype, leaf.shape) == (one.dtype, (6, *one.shape))
        back = to_recorded_arrays(dataset)
        for (_, space), was, now in zip(
            leaves_with_path(spec.observation),
            jax.tree.leaves(recorded["observations"]),
            jax.tree.leaves(back["observations"]),
            strict=True,
        ):
            assert now.dtype == was.dtype
            # float32 is what etude keeps of float64
            stored = was.astype(np.float32) if was.dtype == np.float64 else was
            np.testing.assert_array_equal(now, stored, str(space))
        assert back["actions"].dtype == recorded["actions"].dtype
        if isinstance(spec.action, Box) and recorded["actions"].dtype.kind == "f":
            np.testing.assert_allclose(back["actions"], recorded["actions"], atol=1e-6)
        else:
            np.testing.assert_array_equal(back["actions"], recorded["actions"])


def test_what_is_had_back_makes_the_same_dataset():
    dataset = make_dataset(SPEC, **recording())
    equal(make_dataset(SPEC, **to_recorded_arrays(dataset)), dataset)


def test_successors_that_are_no_observation_cannot_be_had_back():
    dataset = make_dataset(SPEC, **recording())
    steps = dataset.transitions
    position = np.array(steps.next_observation["position"])
    changed = lambda: replace(
        dataset,
        transitions=replace(
            steps, next_observation=steps.next_observation | {"position": position}
        ),
    )
    position[2] = 9.5  # the last step of an episode: no other holds this observation
    recorded = to_recorded_arrays(changed())["observations"]
    np.testing.assert_array_equal(recorded["position"][3], [9.5, 9.5])
    position[1] = 9.5
    with pytest.raises(InvalidInput, match="not the observation of the step that follows"):
        to_recorded_arrays(changed())


def test_a_compiled_function_takes_a_dataset():
    traces = []

    @jax.jit
    def first_rewards(dataset):
        traces.append(dataset.num_steps)
        return dataset.transitions.reward[episode_starts(dataset)]

    recorded = recording()
    np.testing.assert_array_equal(first_rewards(make_dataset(SPEC, **recorded)), [1, 0.5, -1])
    recorded["rewards"] = 2 * recorded["rewards"]
    np.testing.assert_array_equal(first_rewards(make_dataset(SPEC, **recorded)), [2, 1, -2])
    assert traces == [6]  # the arrays are arguments, not constants of the program


def test_choices_may_count_from_below_zero_and_beyond_int32():
    spec = EnvironmentSpec(Discrete(3, start=2**40), Discrete(3, start=-1))
    recorded = recording() | {
        "observations": 2**40 + np.arange(9) % 3,
        "actions": np.array([0, 1, 0, 1, 0, 1], np.uint8),
    }
    dataset = make_dataset(spec, **recorded)
    np.testing.assert_array_equal(dataset.transitions.observation, [0, 1, 2, 1, 0, 1])
    np.testing.assert_array_equal(dataset.transitions.action, [1, 2, 1, 2, 1, 2])
    back = to_recorded_arrays(dataset)
    np.testing.assert_array_equal(back["observations"], recorded["observations"])
    np.testing.assert_array_equal(back["actions"], recorded["actions"])


# Hashes


def test_equal_datasets_have_equal_hashes_and_others_do_not():
    dataset = make_dataset(SPEC, **recording())
    digest = content_hash(dataset)
    assert len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    assert content_hash(make_dataset(SPEC, **by_episode(recording()))) == digest
    leaves, structure = jax.tree.flatten(dataset)
    digests = {digest}
    for i, leaf in enumerate(leaves):
        changed = np.array(leaf)
        changed.ravel().view(np.uint8)[-1] ^= 1
        others = [jax.tree.unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]])]
        others.append(jax.tree.unflatten(structure, [*leaves[:i], leaf[:-1], *leaves[i + 1 :]]))
        digests |= {content_hash(other) for other in others}
    assert len(digests) == 1 + 2 * len(leaves)


def test_a_hash_stays_the_same_between_releases():
    assert content_hash(make_dataset(SPEC, **recording())) == (
        "c903f6bf3f2d2511f551d92ff7eb13d4e188125d753ecac4637579d13d727e2c"
    )


def test_a_hash_tells_names_and_shapes_apart():
    def digest(**parts):
        spec = EnvironmentSpec(
            Composite(tuple(Box(x.shape[1:]) for x in parts.values()), tuple(parts)), Discrete(2)
        )
        fields = dict.fromkeys(("actions", "rewards", "terminations"), np.zeros(1, int))
        return content_hash(
            make_dataset(spec, observations=parts, **fields, truncations=[1], episode_lengths=[1])
        )

    values = np.zeros((2, 2, 0)), np.ones((2, 4))
    same = [
        digest(a=values[0], b=values[1]),
        digest(a=values[0], c=values[1]),
        digest(b=values[0], c=values[1]),
        digest(a=values[0], b=values[1].reshape(2, 2, 2)),
        digest(a=values[0].reshape(2, 0, 2), b=values[1]),
    ]
    assert len(set(same)) == 5


# Refusals


def refusal(change=None, spec=SPEC, **fields):
    recorded = recording() | fields
    if change:
        change(recorded)
    with pytest.raises(InvalidInput) as refused:
        make_dataset(spec, **recorded)
    message = str(refused.value)
    assert "\n" not in message
    return message


def put(field, row, value, key=None):
    """A change of one value of a recording."""

    def change(recorded):
        array = np.array(recorded[field] if key is None else recorded[field][key])
        array = array.astype(np.result_type(array, np.asarray(value)))
        array[row] = value
        recorded[field] = array if key is None else recorded[field] | {key: array}

    return change


@pytest.mark.parametrize(
    "change, place, rest",
    [
        (
            put("observations", (7, 1), np.nan, "position"),
            "episode 2, step 1: observations['position'][1] is nan",
            "finite as float32",
        ),
        (
            put("observations", (3, 0), np.inf, "position"),  # after the last step
            "episode 0, step 3: observations['position'][0] is inf",
            "finite as float32",
        ),
        (
            put("observations", (4, 0), 1e300, "position"),
            "episode 1, step 0: observations['position'][0] is 1e+300",
            "finite as float32: leave the episode out, or scale",
        ),
        (
            put("observations", 8, 8, "door"),
            "episode 2, step 2: observations['door'] is 8",
            "must be in Discrete(n=3, start=5",
        ),
        (
            put("observations", 0, 4, "door"),
            "episode 0, step 0: observations['door'] is 4",
            "count from its start",
        ),
        (put("actions", (3, 1), np.nan), "episode 1, step 0: actions[1] is nan", "finite"),
        (
            put("actions", (5, 0), 2.001),
            "episode 2, step 1: actions[0] is 2.001",
            "Box(shape=(2,), dtype='float32', low=(-2.0, 0.0), high=(2.0, 10.0)): give the action",
        ),
        (put("actions", (1, 1), -0.001), "episode 0, step 1: actions[1] is -0.001", "give the act"),
        (put("rewards", 3, -np.inf), "episode 1, step 0: rewards is -inf", "finite"),
        (put("rewards", 2, 1e39), "episode 0, step 2: rewards is 1e+39", "finite as float32"),
        (put("terminations", 2, 2), "episode 0, step 2: terminations is 2", "must be 0 or 1"),
        (put("truncations", 2, -1), "episode 0, step 2: truncations is -1", "must be 0 or 1"),
        (
            put("terminations", 4, True),
            "episode 2, step 0: terminations is True",
            "only the last step of an episode has a flag",
        ),
        (
            put("truncations", 0, True),
            "episode 0, step 0: truncations is True",
            "only the last step of an episode has a flag",
        ),
        (
            put("truncations", 3, False),
            "episode 1, step 0: truncations is False",
            "has neither: set the one that is right, or give truncate_unfinished=True",
        ),
    ],
)
def test_a_value_at_fault_is_named_with_its_place(change, place, rest):
    message = refusal(change)
    assert message.startswith(f"{place}; ") and rest in message
    recorded = recording()
    change(recorded)
    with pytest.raises(InvalidInput) as refused:  # the same place in episodes one by one
        make_dataset(SPEC, **by_episode(recorded))
    assert str(refused.value).startswith(f"{place}; ")


@pytest.mark.parametrize(
    "space, action, fault",
    [
        (Discrete(3, start=-1), -2, "actions is -2"),
        (Discrete(3, start=-1), 2, "actions is 2"),
        (Discrete(2), 2**64 - 1, "actions is 18446744073709551615"),
        (MultiDiscrete((2, 3), (0, 5), (1, 2)), [[1, 8]], "actions[0, 1] is 8"),
        (MultiBinary((2,)), [2, 0], "actions[0] is 2"),
        (Box((1,), "int32", 0.0, 10.0), [11], "actions[0] is 11"),
        (Box((2,)), [0.0, 1e39], "actions[1] is 1e+39"),
        (Box((1,), low=0.0), [-1.0], "actions[0] is -1.0"),
    ],
    ids=str,
)
def test_an_action_outside_of_its_space_is_named(space, action, fault):
    actions = np.array([action] * 6)
    actions = np.where(np.arange(6).reshape(6, *(1,) * (actions.ndim - 1)) == 4, actions, 0)
    if isinstance(space, MultiDiscrete):
        actions[..., 1] += 5 * (actions[..., 1] == 0)
    message = refusal(spec=replace(SPEC, action=space), actions=actions)
    assert message.startswith(f"episode 2, step 0: {fault}; ")


def test_bounds_are_held_to_the_precision_of_float32():
    spec = replace(SPEC, action=Box((1,), "float64", -0.1, 0.7))
    for actions in (np.float64([[-0.1], [0.7]]), np.float32([[-0.1], [0.7]])):
        dataset = make_dataset(spec, **recording() | {"actions": np.repeat(actions, 3, axis=0)})
        np.testing.assert_allclose(dataset.transitions.action[::5, 0], [-1, 1], atol=1e-7)
        assert np.abs(dataset.transitions.action).max() <= 1
    refusal(spec=spec, actions=np.full((6, 1), 0.7001))


@pytest.mark.parametrize(
    "space, value, rest",
    [
        (Box((), "uint8", 0.0, 255.0), 256, "uint8 does not hold it"),
        (Box((), "uint8", 0.0, 255.0), -1, "uint8 does not hold it"),
        (Box((), "int64", 0, 2**40), 2**31, "int32 does not hold it"),
        (Box((), "bool", 0, 1), 2, "bool does not hold it"),
        (MultiBinary(()), 2, "must be 0 or 1"),
        (MultiDiscrete((3,), (2,), ()), 5, "must be in MultiDiscrete"),
    ],
    ids=str,
)
def test_an_observation_that_would_be_stored_as_another_is_named(space, value, rest):
    starts = 2 if isinstance(space, MultiDiscrete) else 0
    observations = np.where(np.arange(9) == 5, value, starts)
    message = refusal(spec=replace(SPEC, observation=space), observations=observations)
    assert message.startswith(f"episode 1, step 1: observations is {value}; ") and rest in message


def replaced(field, value, key=None):
    return lambda recorded: recorded.update(
        {field: value if key is None else recorded[field] | {key: value}}
    )


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            replaced("observations", np.zeros((6, 2)), "position"),
            "observations['position'] has 6 rows, as many as there are steps; an episode of T "
            "steps has T + 1 observations: append the one that its last step returned",
        ),
        (
            replaced("observations", np.zeros((8, 2)), "position"),
            "observations['position'] has 8 rows, and by the lengths of the episodes it should "
            "have 9; correct episode_lengths or the array",
        ),
        (
            replaced("rewards", np.zeros(7)),
            "rewards has 7 rows, and by the lengths of the episodes it should have 6; correct "
            "episode_lengths or the array",
        ),
        (
            replaced("observations", np.zeros((9, 3)), "position"),
            "observations['position'] has the shape (9, 3); by its space and the lengths of the "
            "episodes it should be (9, 2)",
        ),
        (
            replaced("rewards", np.zeros((6, 1))),
            "rewards has the shape (6, 1); by its space and the lengths of the episodes it should "
            "be (6,)",
        ),
        (
            replaced("rewards", 0.0),
            "rewards has the shape (); by its space and the lengths of the episodes it should be "
            "(6,)",
        ),
        (
            replaced("observations", np.zeros(9), "door"),
            "observations['door'] has the dtype float64, and its space has whole numbers; convert "
            "it with `astype`",
        ),
        (
            replaced("terminations", np.zeros(6)),
            "terminations has the dtype float64, and its space has whole numbers; convert it with "
            "`astype`",
        ),
        (
            replaced("actions", np.zeros((6, 2), complex)),
            "actions has the dtype complex128, and its space has real numbers; convert it with "
            "`astype`",
        ),
        (
            replaced("rewards", ["1"] * 6),
            "rewards has the dtype <U1, and its space has real numbers; convert it with `astype`",
        ),
        (
            replaced("rewards", None),
            "rewards has the dtype object, and its space has real numbers; convert it with "
            "`astype`",
        ),
        (
            replaced("observations", {"door": 0, "window": 0}),
            "observations is a dict with the keys ['door', 'window']; its space needs a dict of "
            "arrays with the keys ['door', 'position']",
        ),
        (
            replaced("observations", [{"door": 5, "position": [0.0, 0.0]}] * 9),
            "observations is a list; its space needs a dict of arrays with the keys "
            "['door', 'position']",
        ),
        (replaced("episode_lengths", []), "the dataset has no episodes; record at least one"),
        (
            replaced("episode_lengths", [3, 0, 3]),
            "episode 1 has 0 steps; an episode has at least 1 and fewer than 2**31: leave out "
            "episodes without steps",
        ),
        (
            replaced("episode_lengths", [7, -1]),
            "episode 1 has -1 steps; an episode has at least 1 and fewer than 2**31: leave out "
            "episodes without steps",
        ),
        (
            replaced("episode_lengths", np.array([2**63, 2**63, 6], np.uint64)),
            "episode 0 has 9223372036854775808 steps; an episode has at least 1 and fewer than "
            "2**31: leave out episodes without steps",
        ),
        (
            replaced("episode_lengths", [3.0, 1.0, 2.0]),
            "episode_lengths has the dtype float64 and the shape (3,); give the whole number of "
            "steps of each episode, [episode]",
        ),
        (
            replaced("episode_lengths", 6),
            "episode_lengths has the dtype int64 and the shape (); give the whole number of steps "
            "of each episode, [episode]",
        ),
        (
            replaced("episode_lengths", [3, 1]),
            "observations['door'] has 9 rows, and by the lengths of the episodes it should have 6; "
            "correct episode_lengths or the array",
        ),
    ],
)
def test_arrays_of_another_form_are_refused_by_name(change, expected):
    assert refusal(change) == expected


def test_ragged_rows_are_refused_by_name():
    message = refusal(actions=[[0.0, 0.0], [0.0]])
    assert message.startswith("actions is no array (") and message.endswith("rows of one shape")


def test_parts_of_a_tuple_are_named():
    spec = replace(SPEC, observation=Composite((Discrete(3), Composite((Box((1,)),), ("a",)))))
    observations = np.zeros(9, int), {"a": np.zeros((9, 2))}
    assert "observations[1]['a'] has the shape (9, 2)" in refusal(
        spec=spec, observations=observations
    )
    assert refusal(spec=spec, observations=observations[:1]) == (
        "observations is a tuple; its space needs a tuple of arrays with the keys [0, 1]"
    )


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            lambda episodes: episodes["rewards"].pop(),
            "there are observations of 3, actions of 3, rewards of 2, terminations of 3, "
            "truncations of 3 episodes; give as many of each; with arrays laid end to end, give "
            "episode_lengths",
        ),
        (
            lambda episodes: [field.clear() for field in episodes.values()],
            "the dataset has no episodes; record at least one",
        ),
        (
            lambda episodes: episodes["actions"].__setitem__(1, np.zeros((0, 2))),
            "episode 1 has 0 steps; an episode has at least 1 and fewer than 2**31: leave out "
            "episodes without steps",
        ),
        (
            lambda episodes: episodes["actions"].__setitem__(1, 0.5),
            "actions of episode 1 is the number 0.5, not an array of the actions of all its steps; "
            "with arrays laid end to end, give episode_lengths",
        ),
        (
            lambda episodes: episodes["rewards"].__setitem__(2, np.zeros(3)),
            "rewards of episode 2 has 3 rows, and by the lengths of the episodes it should have 2; "
            "correct episode_lengths or the array",
        ),
        (
            lambda episodes: episodes["observations"][0].update(position=np.zeros((3, 2))),
            "observations['position'] of episode 0 has 3 rows, as many as there are steps; an "
            "episode of T steps has T + 1 observations: append the one that its last step returned",
        ),
        (
            lambda episodes: episodes["observations"][2].pop("door"),
            "observations of episode 2 is a dict with the keys ['position']; its space needs a "
            "dict of arrays with the keys ['door', 'position']",
        ),
        (
            lambda episodes: episodes.update(terminations=np.array(True)),
            "terminations is a ndarray, not a sequence with one entry for each episode; with "
            "arrays laid end to end, give episode_lengths",
        ),
        (
            lambda episodes: episodes.update(observations=recording()["observations"]),
            "observations is a dict, not a sequence with one entry for each episode; with "
            "arrays laid end to end, give episode_lengths",
        ),
    ],
)
def test_an_episode_at_fault_is_named(change, expected):
    episodes = by_episode(recording())
    change(episodes)
    with pytest.raises(InvalidInput) as refused:
        make_dataset(SPEC, **episodes)
    assert str(refused.value) == expected


def test_a_recording_that_was_cut_off_is_truncated_where_that_is_asked_for():
    recorded = recording()
    flags = dict.fromkeys(("terminations", "truncations"), np.zeros(6, bool))
    with pytest.raises(InvalidInput, match="episode 0, step 2: truncations is False"):
        make_dataset(SPEC, **recorded | flags)
    steps = make_dataset(SPEC, **recorded | flags, truncate_unfinished=True).transitions
    np.testing.assert_array_equal(steps.truncated, [0, 0, 1, 1, 0, 1])
    assert not np.asarray(steps.terminated).any()
    # what has a flag keeps it
    equal(make_dataset(SPEC, **recorded, truncate_unfinished=True), make_dataset(SPEC, **recorded))


# Other spaces


def dataset_of(observation, action):
    """Enough of a dataset: its spaces are static."""
    return Dataset((), (), EnvironmentSpec(observation, action, 1, "House-v0"))


NESTED = Composite((Box((2,), "float64"), Discrete(3)), ("a", "b"))


@pytest.mark.parametrize(
    "recorded, needed",
    [
        (Box((2,)), Box((2,), "float64")),
        (Box((2,), low=-0.1), Box((2,), "float64", (float(np.float32(-0.1)),) * 2)),
        (Box((2,), "int64", 0, 9), Box((2,), "int32", 0.0, 9.0)),
        (Discrete(3), Discrete(3, dtype="int32")),
        (MultiDiscrete((2,), (0,), (1,)), MultiDiscrete((2,), (0,), (1,), "int8")),
        (NESTED, Composite((Box((2,)), Discrete(3)), ("a", "b"))),
    ],
    ids=str,
)
def test_spaces_that_differ_in_precision_alone_are_the_same(recorded, needed):
    check_dataset_spaces(dataset_of(recorded, Discrete(2)), EnvironmentSpec(needed, Discrete(2), 5))
    if not isinstance(recorded, Composite):
        check_dataset_spaces(dataset_of(NESTED, recorded), EnvironmentSpec(NESTED, needed, 5))


@pytest.mark.parametrize(
    "recorded, needed",
    [
        (Box((2,)), Box((3,))),
        (Box((2,)), Box((2, 1))),
        (Box((2,), low=-1.0, high=1.0), Box((2,), low=-1.0, high=2.0)),
        (Box((2,)), Box((2,), low=-1.0)),
        (Box((1,), "uint8", 0.0, 9.0), Box((1,), "int32", 0.0, 9.0)),
        (Box((1,)), Discrete(3)),
        (Discrete(3), Discrete(4)),
        (Discrete(3), Discrete(3, start=1)),
        (MultiDiscrete((2,), (0,), (1,)), MultiDiscrete((3,), (0,), (1,))),
        (MultiBinary((2,)), MultiBinary((3,))),
        (NESTED, Composite(NESTED.parts, ("a", "c"))),
        (NESTED, Composite(NESTED.parts)),
        (NESTED, NESTED.parts[0]),
        (Composite(()), Box((2,))),
    ],
    ids=str,
)
def test_other_spaces_are_refused_with_both(recorded, needed):
    with pytest.raises(InvalidInput) as refused:
        check_dataset_spaces(
            dataset_of(recorded, Discrete(2)), EnvironmentSpec(needed, Discrete(2), 1, "Yard-v1")
        )
    assert str(refused.value).startswith(
        f"the observation space of the dataset (House-v0) is {recorded}, and that of the "
        f"environment (Yard-v1) is {needed}; give the dataset of this environment"
    )
    if not isinstance(recorded, Composite):
        with pytest.raises(InvalidInput) as refused:
            check_dataset_spaces(dataset_of(NESTED, recorded), EnvironmentSpec(NESTED, needed))
        assert str(refused.value).startswith(
            f"the action space of the dataset (House-v0) is {recorded}, and that of the "
            f"environment is {needed}; "
        )
