"""Goals in hindsight are what the same episode achieved later; the policy imitates given those."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etude
from etude.algorithms.imitation import cloning, gcbc, goal_cloning
from etude.algorithms.imitation.gcbc import GCBC
from etude.algorithms.imitation.goal_cloning import GoalInput, GoalMemory
from etude.algorithms.imitation.sequences import Sequences
from etude.algorithms.protocol import Outside, init_state
from etude.data.dataset import make_dataset
from etude.errors import InvalidInput
from etude.spaces import Box, Composite, Discrete, EnvironmentSpec, MultiBinary
from etude.struct import replace

KEY = jax.random.key(0)
SEEN = Box((2,))
SPEC = EnvironmentSpec(SEEN, Discrete(2))
LENGTHS = (4, 1, 7)


def told(episode, time):
    """An observation that tells its episode and its time."""
    return np.array([episode, time], np.float32)


@pytest.fixture(scope="module")
def dataset():
    """Episodes of four, one and seven steps; the action is the time modulo 2."""
    times = np.concatenate([np.arange(n) for n in LENGTHS])
    is_last = np.isin(np.arange(sum(LENGTHS)), np.cumsum(LENGTHS) - 1)
    return make_dataset(
        SPEC,
        observations=np.stack([told(i, t) for i, n in enumerate(LENGTHS) for t in range(n + 1)]),
        actions=times % 2,
        rewards=np.zeros(len(times)),
        terminations=is_last,
        truncations=np.zeros(len(times), bool),
        episode_lengths=np.array(LENGTHS),
    )


def relabeled(dataset, rows, horizon=0, key=KEY):
    goal_input = GoalInput(dataset.spec.observation, horizon)
    return jax.jit(gcbc.relabel_steps, static_argnums=0)(goal_input, key, dataset, rows)


def test_a_goal_lies_as_far_ahead_as_the_closed_form_says(dataset):
    """P(k) = 1/N Σ over episodes of Σ from m = k to T of 1/m, for a step that is drawn from all N
    and a goal that is drawn from the m observations after it."""
    repeats, steps = 2_000, sum(LENGTHS)
    rows = np.tile(np.arange(steps), repeats)
    batch = relabeled(dataset, rows, horizon=10)
    seen, goal = (np.asarray(batch.observation[name]) for name in ("observation", "goal"))
    np.testing.assert_array_equal(seen[:, 0], goal[:, 0])  # never of another episode
    lag = (goal - seen)[:, 1].astype(int)
    np.testing.assert_allclose(batch.observation["remaining_steps"], lag / 10, rtol=1e-6)
    np.testing.assert_array_equal(batch.action[:, 0], seen[:, 1] % 2)
    expected = [sum(1 / m for n in LENGTHS for m in range(k, n + 1)) / steps for k in range(1, 8)]
    assert sum(expected) == pytest.approx(1)
    counted = np.bincount(lag, minlength=8)[1:] / len(lag)
    np.testing.assert_allclose(counted, expected, atol=4 * np.sqrt(0.25 / len(lag)))
    # of the first step of the longest episode, all seven, the last observation included
    drawn, counts = np.unique(lag[rows == 5], return_counts=True)
    np.testing.assert_array_equal(drawn, np.arange(1, 8))
    assert abs(counts / repeats - 1 / 7).max() < 4 * np.sqrt(6 / 49 / repeats)


def test_what_was_achieved_by_luck_is_imitated():
    """One step, two arms: the first leads to the goal in 8 of 10, the second in 3 of 10. The best
    action for it is always the first; that of the clone is P(a | goal), 8 of 11."""
    arm = np.repeat([0, 1], 10)
    reached = np.concatenate([np.arange(10) < 8, np.arange(10) < 3]).astype(np.float32)
    spec = EnvironmentSpec(Box((1,)), Discrete(2))
    observations = np.stack([np.zeros(20), reached], 1).reshape(-1, 1)
    lucky = make_dataset(
        spec,
        observations=observations,
        actions=arm,
        rewards=np.zeros(20),
        terminations=np.ones(20, bool),
        truncations=np.zeros(20, bool),
        episode_lengths=np.ones(20, int),
    )
    method = GCBC(learning_rate=0.1, hidden=(4,), activation="tanh", normalize_observation=None)

    @jax.jit
    def fitted(key, dataset):
        state = init_state(method, key, spec, Outside(dataset))
        batch = gcbc.relabel_steps(state.goal_input, key, dataset, jnp.arange(20))

        def step(learner, _):
            return cloning.gradient_step(method, learner, batch, key)[0], None

        learner, _ = jax.lax.scan(step, state.learner, None, 300)
        asked = state.goal_input(jnp.zeros((2, 1)), jnp.float32([[1], [0]]), jnp.ones(2))
        return jax.nn.softmax(learner.policy(asked).logits)[:, 0]

    np.testing.assert_allclose(fitted(KEY, lucky), [8 / 11, 2 / 9], atol=0.01)


@pytest.mark.parametrize("goal", [(), ("1",)], ids=["whole", "part"])
def test_an_episode_is_played_for_the_last_observation_of_one_of_the_dataset(dataset, goal):
    """Or for an element of it."""
    method, spec = GCBC(hidden=(4,), goal=goal), replace(SPEC, num_envs=300)
    part = slice(1, 2) if goal else slice(None)

    @jax.jit
    def play(key, dataset):
        state = init_state(method, key, spec, Outside(dataset))
        begun = method.initial_memory(state, spec, key)
        seen = jnp.zeros((300, 2)).at[:, part].set(begun.goal)
        _, after = method.act(state, seen, begun, key, False)
        far = jnp.array([0, 5]) if goal else jnp.array([3, 4])
        return begun, after, method.final_measures(state, after, seen + far)

    begun, after, measured = play(KEY, dataset)
    drawn, counts = np.unique(np.asarray(begun.goal), axis=0, return_counts=True)
    ends = [told(i, n)[part] for i, n in enumerate(LENGTHS)]
    np.testing.assert_array_equal(drawn, sorted(map(list, ends)))
    assert (counts > 70).all()
    # it stays in the memory, and the distance to it is told
    np.testing.assert_array_equal(after.goal, begun.goal)
    assert (after.step == 1).all()
    np.testing.assert_allclose(measured["distance"], 5, rtol=1e-6)


GOALS = Composite((Box((2,)), Box((2,)), Box((3,))), ("achieved_goal", "desired_goal", "place"))


def test_a_desired_goal_is_replaced_and_the_achieved_one_is_not_seen():
    goal_input = GoalInput(GOALS)
    assert goal_input.space == Composite((Box((2,)), Box((3,))), ("desired_goal", "place"))
    seen = {name: np.full((1, 2), i) for i, name in enumerate(GOALS.names)}
    entries = goal_input(seen, "another goal", jnp.ones(1))
    assert entries.keys() == {"desired_goal", "place"}
    assert entries["desired_goal"] == "another goal" and entries["place"] is seen["place"]
    assert goal_input.achieved_goal(seen) is seen["achieved_goal"]
    assert goal_input.desired_goal(seen, GoalMemory((), 0)) is seen["desired_goal"]


def test_a_goal_of_named_parts_is_drawn_seen_and_measured():
    """Of entries of a Dict, and of elements of a vector; the policy sees the rest as before."""
    robot = Composite((Discrete(5), SEEN), ("gear", "place"))
    goal_input = GoalInput(robot, names=("place",))
    goals = Composite((SEEN,), ("place",))
    assert goal_input.space == Composite((goals, robot), ("goal", "observation"))
    seen = {"gear": np.ones(1), "place": np.zeros((1, 2))}
    assert goal_input.achieved_goal(seen) == {"place": seen["place"]}
    entries = goal_input(seen, "a goal", jnp.ones(1))
    assert entries == {"goal": "a goal", "observation": seen}
    shown = GoalInput(GOALS, names=("place",))
    assert shown.space.names == ("goal", "observation") and not shown.is_shown
    memory = GoalMemory({"place": np.zeros((1, 3))}, 0)
    assert shown.desired_goal({}, memory) is memory.goal


def test_beside_a_mask_the_policy_sees_it_where_it_reads_it():
    masked = Composite((MultiBinary((2,)), SEEN), ("action_mask", "place"))
    space = GoalInput(masked, 5).space
    assert space.names == ("action_mask", "goal", "observation", "remaining_steps")
    seen = {"action_mask": np.ones((1, 2)), "place": np.zeros((1, 2))}
    place = {"place": seen["place"]}
    assert GoalInput(masked).achieved_goal(seen) == place
    entries = GoalInput(masked, 5)(seen, place, jnp.float32([9]))
    assert entries["action_mask"] is seen["action_mask"] and entries["observation"] == place
    assert space.parts[1] == space.parts[2] == Composite((SEEN,), ("place",))
    assert entries["remaining_steps"] == 1  # of more steps than the horizon has


def test_an_entry_called_as_the_remaining_steps_is_not_written_over():
    names = ("achieved_goal", "desired_goal", "remaining_steps")
    with pytest.raises(InvalidInput, match="horizon is 5, and observations have an entry remain"):
        _ = GoalInput(Composite((SEEN,) * 3, names), 5).space


def test_the_policy_is_told_how_many_steps_remain():
    """Three of a horizon of three at first, and one from then on that it is over."""
    asked = []

    def act_as_cloned(algorithm, cloner, observation, carry, key, explore):
        asked.append(float(observation["remaining_steps"][0]))
        return (), ()

    method, memory = GCBC(horizon=3), GoalMemory(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))
    state = gcbc.GCBCState((), (), GoalInput(SEEN, 3), Sequences())
    with mock.patch.object(cloning, "act_as_cloned", act_as_cloned):
        for _ in range(5):
            _, memory = goal_cloning.act_for_goal(
                method, state, jnp.zeros((1, 2)), memory, KEY, False
            )
    np.testing.assert_allclose(asked, [1, 2 / 3, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Discrete(5), "GCBC measures the distance .* goals are Discrete.*; wrap it, or"),
        (
            Composite((Discrete(5), Discrete(5), SEEN), ("achieved_goal", "desired_goal", "place")),
            "goals are Discrete",
        ),
        (
            Composite((Box((2,)), Box((3,))), ("achieved_goal", "desired_goal")),
            "desired_goal is Box.* and achieved_goal Box",
        ),
        (
            Composite((SEEN, SEEN), ("achieved_goal", "desired_goal")),
            "nothing tells the state beside achieved_goal",
        ),
    ],
)
def test_goals_without_a_distance_are_refused_by_name(space, message):
    with pytest.raises(InvalidInput, match=message):
        init_state(GCBC(), KEY, EnvironmentSpec(space, Discrete(2)))


def test_a_goal_without_a_distance_is_refused_where_the_whole_has_one():
    spec = EnvironmentSpec(Composite((Discrete(5), SEEN), ("gear", "place")), Discrete(2))
    with pytest.raises(InvalidInput, match="goals are .*gear"):
        init_state(GCBC(goal=("gear",)), KEY, spec)
    with pytest.raises(InvalidInput, match="goal is 'wheel', and .* gear, place; name some"):
        init_state(GCBC(goal=("wheel",)), KEY, spec)


@pytest.mark.system
def test_the_room_is_learned_from_random_play_and_not_with_goals_of_other_episodes(tmp_path):
    """From 200 episodes at random, which end at 0.2 from where they began, and goals that are
    mostly farther. The goals of a batch in another order tell nothing of the actions."""
    etude.record("etude/PointRoom-v0", expert="random", episodes=200, out=tmp_path / "random.npz")
    relabel = goal_cloning.relabel

    def with_goals_of_others(*arguments):
        batch = relabel(*arguments)
        goals = jnp.roll(batch.observation["desired_goal"], 97, 0)
        return replace(batch, observation=batch.observation | {"desired_goal": goals})

    distances = []
    for name, function in (("own", relabel), ("others", with_goals_of_others)):
        with mock.patch.object(goal_cloning, "relabel", function):
            run = etude.train(
                GCBC(hidden=(64, 64)),
                "etude/PointRoom-v0",
                dataset=tmp_path / "random.npz",
                steps=3_000,
                out=tmp_path / name,
                progress=False,
            )
        distances.append(run.summary["evaluation"]["measures"]["distance"]["medians"][0])
    assert distances[0] < 0.12 and distances[1] > 0.5


@pytest.mark.system
def test_a_swimmer_comes_nearer_to_whole_observations(tmp_path):
    """MuJoCo, where nothing says what the goal is: those of episodes at random, played for before
    much is learned and after."""
    options = {"max_episode_steps": 50}
    path = tmp_path / "swim.npz"
    etude.record("Swimmer-v5", expert="random", options=options, episodes=200, out=path)
    run = etude.train(
        GCBC(horizon=50),
        "Swimmer-v5",
        options=options,
        dataset=path,
        steps=2_000,
        evaluate_every=200,
        evaluate_with=20,
        out=tmp_path / "run",
        progress=False,
    )
    distance = run.metrics["evaluation_distance"]
    distance = distance[np.isfinite(distance)]
    assert distance[-3:].mean() < 0.6 * distance[0]
