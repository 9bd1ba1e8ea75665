"""DAgger with a person: who has control labels, and nobody else; the run stays whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import here
from hands import Hands
from records import rewrite_config

import etude
from etude.algorithms.imitation.dagger import DAgger, LabelledSteps, count_labels
from etude.algorithms.protocol import Expert, Outside, init_state
from etude.data.replay.ring_buffer import RingBuffer
from etude.errors import EnvironmentFault, InvalidInput
from etude.runs import interventions
from etude.runs.options import RunOptions
from etude.runs.person import person_expert
from etude.runs.run import create_run
from etude.runs.train import resolve_settings
from etude.spaces import Box, Discrete, EnvironmentSpec
from etude.storage.files import CorruptFile

KEY = jax.random.key(0)
SPEC = EnvironmentSpec(Box((1,)), Discrete(3))
ROUND = 20
SMALL = DAgger(
    hidden=(4,), batch_size=8, gradient_steps=2, rollout_length=ROUND, capacity=4 * ROUND
)
OPTIONS = dict(evaluation_episodes=1, max_evaluation_steps=20, progress=False, seed=3)


@pytest.fixture(autouse=True)
def dummy(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def settings_of(algorithm=SMALL, environment="CartPole-v1", **options):
    options = dict(expert="person", steps=2 * ROUND) | options
    return resolve_settings(algorithm, environment, RunOptions(**options))


def test_batches_hold_what_was_labelled_and_nothing_else():
    """Each label is as likely as any other, in a ring that is not full."""
    storage = LabelledSteps(
        observation=jnp.arange(80.0)[:, None, None],
        action=(jnp.arange(80) % 3)[:, None],
        done=jnp.zeros((80, 1), bool),
        is_labelled=jnp.array((np.arange(80) % 7 == 2) & (np.arange(80) < 60))[:, None],
    )
    buffer = RingBuffer(storage, jnp.int32(60), ())
    expected, many = np.arange(2, 60, 7), dataclasses.replace(SMALL, batch_size=9_000)
    batch = jax.jit(lambda: many.sample_labelled(buffer, count_labels(buffer), KEY))()
    drawn = np.asarray(batch.observation)[:, 0].astype(int)
    found, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(counts / 9_000, 1 / len(expected), rtol=0.2)
    np.testing.assert_array_equal(batch.action[:, 0], drawn % 3)


def test_only_who_has_control_acts_and_labels():
    spec = dataclasses.replace(SPEC, num_envs=4)
    person = person_expert(spec)
    seen, held = jnp.zeros((4, 1)), jnp.array([True, False, True, False])

    @jax.jit
    def act():
        outside = Outside(expert=person)
        state = init_state(SMALL, KEY, spec, outside)
        memory = SMALL.initial_memory(state, spec, KEY, outside)
        alone, after = SMALL.act(state, seen, memory, KEY, True, outside)
        other = (alone + 1) % 3
        taken_over = Outside(expert=Expert(other, person.policy, held))
        return alone, after, other, *SMALL.act(state, seen, memory, KEY, True, taken_over)

    alone, before, other, action, after = act()
    assert not before.is_labelled.any()
    np.testing.assert_array_equal(action, np.where(held, other, alone))
    np.testing.assert_array_equal(after.is_labelled, held)
    np.testing.assert_array_equal(after.label, other)


def test_config_json_says_that_a_person_plays(tmp_path):
    settings = settings_of()
    assert settings.backend == "gymnasium" and settings.is_played  # which draws the pictures
    run = create_run(settings, tmp_path / "run")
    loaded = etude.load(run.directory).settings
    assert loaded.expert == settings.expert and loaded.expert.kind == "person"
    told, expected = (jax.tree.map(jnp.shape, x.outside) for x in (loaded, settings))
    assert told == expected
    assert "--expert" not in settings.resume_command(run.directory)
    with pytest.raises(InvalidInput, match="random .algorithm, hash|another; give the one that"):
        etude.resume(run.directory, expert="random", progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_envs=2), "num_envs is 2, and the expert is a person, who plays in one envi"),
        (dict(seeds=2), "seeds is 2, and the expert is a person"),
        (dict(workers=1), "workers is 1, and the expert is a person"),
        (dict(backend="jax"), "backend is 'jax', and the expert is a person, who needs pictures"),
    ],
)
def test_what_a_person_cannot_do_is_refused(change, message):
    with pytest.raises(InvalidInput, match=message):
        settings_of(**change)
    with pytest.raises(InvalidInput, match="recurrent is set, and a person labels single stre"):
        settings_of(dataclasses.replace(SMALL, recurrent=etude.GRU(2), sequence_length=4))


def test_without_a_screen_there_is_no_run(monkeypatch, tmp_path):
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(variable, raising=False)
    ended = here("train", "dagger", "CartPole-v1", "--expert", "person", cwd=tmp_path)
    assert ended.returncode == 2 and "no screen here to open a window on" in ended.stderr
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def sits_down(monkeypatch):
    """A function that has a script play in place of a person, as fast as it can."""
    monkeypatch.setattr(interventions, "frames_per_second", lambda env: 1e9)

    def script(words):
        monkeypatch.setattr(interventions, "Window", lambda: Hands(words))

    return script


def scripted_round(number):
    """What a person does in a round, look by look: control for steps 5 to 9 alone; in the first
    round the person has it from the beginning."""
    begin = [["Tab", "Space"]] if number == 0 else ["Space"]
    return [*begin, *[""] * 4, ["Tab", "+right"], *[""] * 4, ["-right", "Tab"], *[""] * 9]


@pytest.mark.system
def test_a_run_that_a_person_plays_is_resumed_bit_for_bit(sits_down, tmp_path):
    sits_down([word for number in range(4) for word in scripted_round(number)])
    whole = etude.train(
        SMALL, "CartPole-v1", steps=4 * ROUND, expert="person", out=tmp_path / "whole", **OPTIONS
    )
    storage = whole.states()[0].buffer.storage
    is_labelled = np.asarray(storage.is_labelled).reshape(4, ROUND)
    np.testing.assert_array_equal(is_labelled, np.tile((np.arange(ROUND) // 5) == 1, (4, 1)))
    assert (np.asarray(storage.action).reshape(4, ROUND)[is_labelled] == 1).all()
    assert whole.metrics["expert_share"].tolist() == [0.25] * 4
    sits_down([word for number in range(2) for word in scripted_round(number)])
    part = etude.train(
        SMALL, "CartPole-v1", steps=2 * ROUND, expert="person", out=tmp_path / "part", **OPTIONS
    )
    sits_down([word for number in (2, 3) for word in scripted_round(number)])
    etude.resume(part.directory, steps=4 * ROUND, progress=False)
    resumed = etude.load(part.directory).states()[0]
    for one, other in zip(*map(jax.tree.leaves, (whole.states()[0], resumed)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.system
def test_in_turns_only_keys_are_labels(sits_down, tmp_path):
    """Where an environment stands still, looks without a key take no step of the person's."""
    keys = ["+right", "-right", "", "+down", "-down", ""]
    sits_down([*keys, "Tab", *[""] * (ROUND - 2)])
    run = etude.train(
        SMALL,
        "FrozenLake-v1",
        steps=ROUND,
        options={"is_slippery": False},
        expert="person",
        out=tmp_path / "run",
        **OPTIONS,
    )
    storage = run.states()[0].buffer.storage
    is_labelled = np.asarray(storage.is_labelled).reshape(-1)[:ROUND]
    assert is_labelled.tolist() == [True] * 2 + [False] * (ROUND - 2)
    assert np.asarray(storage.action).reshape(-1)[:2].tolist() == [2, 1]


@pytest.mark.system
def test_a_picture_that_fails_says_when(sits_down, tmp_path, monkeypatch):
    def fails(env):
        raise OSError("no paint")

    sits_down(["Space"])
    monkeypatch.setattr(interventions, "picture_of", fails)
    with pytest.raises(EnvironmentFault, match="raised OSError: no paint .step 0 of round 1, at"):
        etude.train(
            SMALL, "CartPole-v1", steps=ROUND, expert="person", out=tmp_path / "run", **OPTIONS
        )


@pytest.mark.system
def test_a_person_who_stops_keeps_the_labels_of_the_round(sits_down, tmp_path):
    """The learner plays it to its end, without labels."""
    sits_down(["Space", "", "", "Esc"])
    with pytest.raises(Exception, match=rf"stopped at step {ROUND} of {3 * ROUND}, saved"):
        etude.train(
            SMALL, "CartPole-v1", steps=3 * ROUND, expert="person", out=tmp_path / "r", **OPTIONS
        )
    state = etude.load(tmp_path / "r").states()[0]
    is_labelled = np.asarray(state.buffer.storage.is_labelled)[:ROUND, 0]
    assert is_labelled.tolist() == [True] * 3 + [False] * (ROUND - 3)


@pytest.mark.system
@pytest.mark.parametrize("labelled_round", [0, 1])
def test_a_round_without_labels_leaves_what_was_learned(sits_down, tmp_path, labelled_round):
    script = []
    for number in range(2):
        has_control, wanted = number == 0, number == labelled_round
        begin = ["Space"] if has_control == wanted else [["Tab", "Space"]]
        script += [*begin, *[""] * (ROUND - 1)]
    sits_down(script)
    run = etude.train(
        SMALL, "CartPole-v1", steps=2 * ROUND, expert="person", out=tmp_path / "r", **OPTIONS
    )
    assert run.metrics["expert_share"][labelled_round] == 1
    state = run.states()[0]
    assert state.learner.observation_statistics[0].count == ROUND
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.learner))


@pytest.mark.system
def test_a_person_who_always_plays_is_dagger_with_an_expert_who_does(sits_down, tmp_path):
    """With the same labels, and an expert in control of every step, the learners are equal."""

    begin, go_on = ["right"], [["Tab", "right"]]  # whose latest action goes on
    sits_down([*begin, *[""] * (ROUND - 1), *go_on, *[""] * (ROUND - 1)])
    always = dict(steps=2 * ROUND, backend="gymnasium", **OPTIONS)
    played = etude.train(SMALL, "CartPole-v1", expert="person", out=tmp_path / "p", **always)
    asked = dataclasses.replace(SMALL, beta=1.0)
    function = etude.train(asked, "CartPole-v1", expert=push_right, out=tmp_path / "f", **always)
    one, other = (run.states()[0] for run in (played, function))
    for field in ("observation", "action", "done"):
        np.testing.assert_array_equal(
            *(getattr(state.buffer.storage, field)[: 2 * ROUND] for state in (one, other))
        )
    assert np.asarray(one.buffer.storage.is_labelled)[: 2 * ROUND].all()
    statistics = [state.learner.observation_statistics for state in (one, other)]
    for mine, theirs in zip(*map(jax.tree.leaves, statistics), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def push_right(observation):
    return 1


def test_what_a_file_says_of_a_person_is_not_believed(tmp_path):
    run = create_run(settings_of(), tmp_path / "run")
    record = dict(name="os:getcwd", kind="person", sha256="0" * 64, memory=[])
    rewrite_config(run.directory, {"expert": record})
    with pytest.raises(CorruptFile, match="gives the expert 'os:getcwd' as 'person'"):
        etude.resume(run.directory, progress=False)
