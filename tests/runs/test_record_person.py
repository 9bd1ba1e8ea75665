"""Recording a person: what is on the disk, when, and what is refused before anybody plays."""

import itertools
import random
import shutil
import signal
import subprocess
import sys
import time

import gymnasium
import gymnasium_spaces  # noqa: F401  registers etude-tests/Noise-v0
import numpy as np
import pytest
from commands import etude as etude_process
from commands import here, kill, start
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from hands import Hands

import etude
from etude.errors import EnvironmentFault, InvalidInput
from etude.runs import record_person
from etude.runs.record import record
from etude.runs.record_person import record_person as play_and_record
from etude.storage.datasets.formats import read_recorded

pytest.importorskip("h5py")


@pytest.fixture
def sits_down(monkeypatch):
    """A function that has a script play in place of a person."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")

    def script(words):
        monkeypatch.setattr(record_person, "Window", lambda: Hands(words))

    return script


def test_a_person_records_with_the_command_line(sits_down, tmp_path):
    sits_down(["right", "right", "Enter", "right", "Backspace", "down", "Enter", "right", "Esc"])
    arguments = ["--expert", "person", "--out", "slide", "--seed", "5", "--wait"]
    ended = here("record", "FrozenLake-v1", *arguments, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "replayed 2 episodes, 3 steps, bit for bit; 2 were cut off" in ended.stdout
    recorded = read_recorded(tmp_path / "slide")
    assert recorded.seeds == (5, 6)
    assert [actions.tolist() for actions in recorded.by_episode().fields["actions"]] == [
        [2, 2],
        [1],
    ]


def test_what_does_not_replay_is_said(sits_down, tmp_path, capsys):
    """An environment that a function makes, and whose seed does nothing."""

    class Dice(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
        observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)
        render_mode = "rgb_array"
        throws = itertools.count()

        def reset(self, *, seed=None, options=None):
            return np.array([next(self.throws) % 9], np.float32), {}

        def step(self, action):
            return self.reset()[0], 1.0, False, False, {}

        def render(self):
            return np.zeros((30, 40, 3), np.uint8)

    sits_down(["+right", "Enter", "Esc"])
    dataset = play_and_record(Dice, out=tmp_path / "dice", keys="left=0,right=1", wait=True)
    assert dataset.num_steps == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "the replay differs: episode 0, step 0: after the reset observations" in said


def test_nothing_is_left_where_no_episode_is_kept(sits_down, tmp_path):
    sits_down(["right", "Backspace", "right", "Esc"])
    with pytest.raises(InvalidInput, match="no episode was kept, so .*walk is not written"):
        play_and_record("FrozenLake-v1", out=tmp_path / "walk", progress=False)
    assert not [*tmp_path.iterdir()]


def test_each_kept_episode_is_on_the_disk_before_the_next(sits_down, tmp_path):
    """Whoever fails in the second, the first is there."""

    def script():
        yield from (["right"], ["Enter"])
        assert etude.read_dataset(tmp_path / "lake").num_episodes == 1
        yield ["left"]
        raise KeyboardInterrupt

    sits_down(script())
    with pytest.raises(Exception, match="stopped; 1 episode is in .*lake"):
        play_and_record("FrozenLake-v1", out=tmp_path / "lake", progress=False)
    assert etude.read_dataset(tmp_path / "lake").num_episodes == 1


def test_a_full_disk_and_a_failing_environment_leave_what_was_kept(
    sits_down, tmp_path, monkeypatch
):
    append, appended = record_person.append_episode, []

    def append_one(writer, episode):
        if appended:
            raise OSError(28, "No space left on device")
        appended.append(episode)
        append(writer, episode)

    monkeypatch.setattr(record_person, "append_episode", append_one)
    sits_down(["right", "Enter", "right", "Enter"])
    kept = "1 episode is in .*full. Make room"
    with pytest.raises(InvalidInput, match=rf"full cannot be written .No space left.*; {kept}"):
        play_and_record("FrozenLake-v1", out=tmp_path / "full", progress=False)
    assert etude.read_dataset(tmp_path / "full").num_episodes == 1
    appended.clear()

    class Breaks(FrozenLakeEnv):
        def step(self, action):
            if appended:
                raise ArithmeticError("too much")
            return super().step(action)

    sits_down(["right", "Enter", "right"])
    with pytest.raises(EnvironmentFault, match="too much .*; 1 episode is in .*broken$"):
        play_and_record(
            lambda: Breaks(render_mode="rgb_array"),
            out=tmp_path / "broken",
            keys="right=2",
            wait=True,
            progress=False,
        )
    assert etude.read_dataset(tmp_path / "broken").num_episodes == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(keys="left"), "keys has 'left', which is not KEY=VALUE"),
        (dict(keys=""), "keys has '', which is not KEY=VALUE"),
        (dict(speed=0), "speed is 0; it must be a number from 0.01 to 100"),
        (dict(keys="left=1", mouse=True), "leave out one of them"),
        (dict(wait=True, mouse=True), "wait takes a step for each key, and a mouse has none"),
        (dict(mouse=True), "the mouse moves in two directions, and the action space is Discrete"),
        (dict(out="x.npz"), "an .npz cannot hold; give x, and convert it with `etude dataset x --"),
        (dict(out="x.h5"), "x.h5 is neither an .npz file nor, for Minari's layout, a directory"),
        (dict(out="there"), "there exists already; choose another name"),
        (dict(episodes=0), "episodes is 0; it must be a whole number of at least 1"),
        (dict(seed=2**32 - 1, episodes=1), "seed is 4294967295, and episodes have seeds up to"),
        (
            dict(environment="etude-tests/Noise-v0"),
            "Noise-v0 draws no pictures of the kind rgb_array: its render_modes are none",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anybody_plays(
    sits_down, tmp_path, monkeypatch, options, message
):
    sits_down(iter(()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    given = dict(environment="CartPole-v1", out="new", progress=False) | options
    with pytest.raises(InvalidInput, match=message):
        play_and_record(**given)
    assert [*tmp_path.iterdir()] == [tmp_path / "there"]


@pytest.mark.parametrize(
    ("expert", "flags", "message"),
    [
        ("person", ("--noise", 0.1), "noise is 0.1, and the expert is a person, who has none"),
        ("person", ("--frame-stack", 2), "frame_stack is 2, and the expert is a person"),
        ("random", ("--wait",), "wait is True, which is for a person who plays; leave it out"),
        ("random", ("--keys", "left=0"), "keys is left=0, which is for a person who plays"),
        ("random", (), "episodes is missing; a person alone stops without"),
    ],
)
def test_flags_of_the_other_kind_of_expert_are_refused(tmp_path, expert, flags, message):
    ended = here("record", "CartPole-v1", "--expert", expert, *flags, "--out", "a", cwd=tmp_path)
    assert ended.returncode == 2 and message in ended.stderr
    assert not [*tmp_path.iterdir()]


def test_in_python_a_person_has_a_function_of_their_own():
    with pytest.raises(InvalidInput, match="record a person with etude.record_person"):
        record("CartPole-v1", "person", episodes=1)


def test_without_a_screen_it_says_so(monkeypatch, tmp_path):
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(variable, raising=False)
    ended = here("record", "CartPole-v1", "--expert", "person", "--out", "new", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "no screen here to open a window on" in ended.stderr
    assert not [*tmp_path.iterdir()]


PLAYS_AT_RANDOM = """
import random, sys
from unittest import mock
import pygame
from etude.recording.window import Window
from etude.runs import record_person

KEYS = [pygame.K_LEFT, pygame.K_RIGHT, pygame.K_RETURN]
append = record_person.append_episode

class Restless(Window):
    def events(self, seconds):
        key = random.choices(KEYS, [5, 5, 1])[0]
        for kind in (pygame.KEYDOWN, pygame.KEYUP):
            pygame.event.post(pygame.event.Event(kind, key=key))
        return [*super().events(0)]

def told(writer, episode):
    append(writer, episode)
    print(len(episode.actions), flush=True)

record_person.Window, record_person.append_episode = Restless, told
record_person.record_person("CartPole-v1", out=sys.argv[1], speed=100.0, progress=False)
"""


@pytest.mark.system
def test_a_kill_at_any_moment_keeps_every_kept_episode(tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    random.seed(0)
    for trial in range(20):
        out = tmp_path / f"trial{trial}"
        process = subprocess.Popen(
            [sys.executable, "-c", PLAYS_AT_RANDOM, str(out)], stdout=subprocess.PIPE, text=True
        )
        lines = [process.stdout.readline() for _ in range(2)]  # it has begun
        while lines[-1].startswith("pygame"):
            lines.append(process.stdout.readline())
        time.sleep(random.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
        kept = [int(line) for line in lines if line.strip().isdigit()]
        lengths = np.asarray(etude.read_dataset(out).episode_lengths).tolist()
        assert lengths[: len(kept)] == kept and len(lengths) <= len(kept) + 1, trial


@pytest.fixture
def display(monkeypatch):
    """A virtual screen, with nothing on it."""
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    # which otherwise begins anew whenever its last client goes
    command = ["Xvfb", "-noreset", "-displayfd", "1", "-screen", "0", "1280x1024x24"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    monkeypatch.setenv("DISPLAY", f":{server.stdout.readline().strip()}")
    for variable in ("SDL_VIDEODRIVER", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    yield
    server.terminate()
    server.communicate()


@pytest.mark.system
def test_real_keys_record_what_is_cloned_and_watched(display, tmp_path):
    """Keys of the X server, to a window that has the keyboard by itself."""
    arguments = ["--expert", "person", "--episodes", 2, "--seed", 3, "--out", "push-v0"]
    process = start("record", "CartPole-v1", *arguments, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            for words in ("keydown Right", "sleep 1.5", "keyup Right", "key Return"):
                subprocess.run(["xdotool", *words.split()], check=True)
    finally:
        said = kill(process) if process.poll() is None else process.communicate()[0]
    assert process.returncode == 0, said
    assert "replayed 2 episodes" in said and "bit for bit" in said
    recorded = read_recorded(tmp_path / "push-v0").by_episode()
    assert recorded.seeds == (3, 4)
    for actions in recorded.fields["actions"]:
        assert actions[-5:].tolist() == [1] * 5  # held down, though left is the first key
    options = ["--steps", 300, "--hidden", 8, "--evaluation-episodes", 2, "--out", "clone"]
    ended = etude_process(
        "train", "bc", "CartPole-v1", "--dataset", "push-v0", *options, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    ended = etude_process("watch", "clone", "--episodes", "1", cwd=tmp_path)
    assert ended.returncode == 0 and "episode 1: return" in ended.stdout, ended.stderr
