"""A person plays episodes in a window: keys become actions, and kept episodes come out singly."""

import contextlib
import copy
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import gymnasium
import jax
import numpy as np

from etude.environments.backends.in_process import SUCCESS
from etude.errors import EnvironmentFault, InvalidInput
from etude.recording.controls import Controls
from etude.recording.session import Command, Session
from etude.recording.window import (
    CloseRequest,
    Event,
    FocusLoss,
    KeyPress,
    KeyRelease,
    MouseMove,
    Panel,
    StickLean,
    Window,
)

COMMANDS: dict[str, Command] = {
    "return": "keep",
    "enter": "keep",
    "backspace": "discard",
    "space": "pause",
    ".": "step",
    "tab": "take over",
    "escape": "stop",
}
IDLE = 0.05  # seconds between two looks where nothing moves
FRAMES_PER_SECOND = 30  # of an environment that does not say how many it has


class PlayedEpisode(NamedTuple):
    """An episode that a person kept: T + 1 observations, and T actions, rewards and flags, in the
    environment's own units."""

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    seed: int
    success: bool | None  # None where the environment does not say


class Commanded(Protocol):
    """What keys change: a `Session`, or `Interventions`."""

    def command(self, command: Command) -> None: ...
    def press_control(self) -> None: ...
    def lose_focus(self) -> None: ...


def handle_event(event: Event, controls: Controls, session: Commanded) -> None:
    """Tell controls and session of an event."""
    match event:
        case KeyPress(key) if key in COMMANDS:
            session.command(COMMANDS[key])
        case KeyPress(key):
            if controls.press(key):
                session.press_control()
        case KeyRelease(key):
            controls.release(key)
        case StickLean(axis, value):
            if controls.lean(axis, value):
                session.press_control()
        case MouseMove(right, up):
            controls.point(right, up)
        case FocusLoss():
            controls.release_all()
            session.lose_focus()
        case CloseRequest():
            session.command("stop")


class Pace:
    """When the next step is due, at a number of steps a second; delays are not caught up with."""

    def __init__(self, steps_per_second: float):
        self.interval, self.next_time = 1 / steps_per_second, 0.0

    def seconds_left(self) -> float:
        """The time until the next step, 0 where it is due."""
        return max(0.0, self.next_time - time.monotonic())

    def advance(self) -> None:
        """A step is taken now."""
        now = time.monotonic()
        is_late = now - self.next_time >= self.interval
        self.next_time = (now if is_late else self.next_time) + self.interval


def play_in_window(
    env: gymnasium.Env,
    window: Window,
    controls: Controls,
    session: Session,
    *,
    speed: float = 1.0,
    max_steps: int,
    title: str,
) -> Iterator[PlayedEpisode]:
    """Let a person play, and yield each kept episode; the next begins when it has been taken.

    Args:
        env: draws rgb_array pictures.
        window: shows them.
        controls, session: are told of the window's events.
        speed: how many times as fast as the environment is meant to be.
        max_steps: after which an episode is truncated.
        title: the environment in the window's title.

    Raises:
        EnvironmentFault: where the environment fails.
        InvalidInput: where it draws no pictures.
    """
    pace = Pace(frames_per_second(env) * speed)
    while session.phase != "stopped":
        controls.release_all()
        episode = RunningEpisode(env, session.seed, max_steps)
        while session.decision is None:
            window.show(episode.picture, panel(session, controls, speed), caption(session, title))
            is_running = session.is_step_due and not session.single_steps
            for event in window.events(min(IDLE, pace.seconds_left()) if is_running else IDLE):
                handle_event(event, controls, session)
                while session.single_steps and session.decision is None:
                    episode.step(controls.action(), session)
            if session.is_step_due and session.decision is None and not pace.seconds_left():
                episode.step(controls.action(), session)
                pace.advance()
        if session.decision == "keep":
            yield episode.kept(session.success)
        session.take_decision()


class RunningEpisode:
    """An episode that is played, and what is recorded of it."""

    def __init__(self, env: gymnasium.Env, seed: int, max_steps: int):
        self.env, self.seed, self.max_steps = env, seed, max_steps
        self.actions, self.rewards, self.terminations, self.truncations = [], [], [], []
        with self._faults(0):
            observation, _ = env.reset(seed=seed)
            self.picture = picture_of(env)
        self.observations = [copy.deepcopy(observation)]

    def step(self, action: Any, session: Session) -> None:
        """Take a step with an action in the environment's own units."""
        with self._faults(len(self.actions) + 1):
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.picture = picture_of(self.env)
        truncated = bool(truncated) or (len(self.actions) + 1 >= self.max_steps and not terminated)
        self.observations.append(copy.deepcopy(observation))
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.terminations.append(bool(terminated))
        self.truncations.append(truncated)
        success = bool(info[SUCCESS]) if SUCCESS in info else None
        session.add_step(float(reward), bool(terminated) or truncated, success)

    def kept(self, success: bool | None) -> PlayedEpisode:
        """The episode as it is recorded; one that goes on is truncated at its last step."""
        truncations = np.array(self.truncations)
        truncations[-1] |= not self.terminations[-1]
        return PlayedEpisode(
            jax.tree.map(lambda *rows: np.stack(rows), *self.observations),
            np.stack(self.actions),
            np.array(self.rewards),
            np.array(self.terminations),
            truncations,
            self.seed,
            success,
        )

    def _faults(self, step: int) -> contextlib.AbstractContextManager[None]:
        return environment_faults(f"step {step} of its episode with seed {self.seed}")


@contextlib.contextmanager
def environment_faults(where: str) -> Iterator[None]:
    """Raise what an environment raises within as an EnvironmentFault that says where."""
    try:
        yield
    except InvalidInput:
        raise
    except (Exception, SystemExit) as error:
        raise EnvironmentFault(
            f"the environment raised {type(error).__name__}: {error} ({where})"
        ) from error


def picture_of(env: gymnasium.Env) -> np.ndarray:
    """The picture of an environment now, bytes [row, column, 3]."""
    drawn: Any = env.render()
    picture: Any = np.asarray(drawn) if drawn is not None else np.zeros(())
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, -1)
    if picture.ndim != 3 or picture.shape[-1] not in (3, 4):
        raise InvalidInput("the environment draws no rgb_array pictures, which the window shows")
    return picture[..., :3].astype(np.uint8)


def frames_per_second(env: gymnasium.Env) -> float:
    """The steps a second for which an environment is made."""
    told = env.metadata.get("render_fps")
    return float(told) if told else FRAMES_PER_SECOND


def caption(session: Session, title: str) -> str:
    """The title of the window."""
    return f"{title} – episode {session.kept + 1}, {session.kept} kept"


def panel(session: Session, controls: Controls, speed: float) -> Panel:
    """The strip below the picture, in a recording."""
    per_key = "each key is a step" if session.step_per_key else "playing"
    outcome = {None: "it is over", True: "success", False: "no success"}[session.success]
    status, tone = {
        "ready": (f"press {'Enter' if controls.use_mouse else 'a key'} to begin", "waiting"),
        "playing": (per_key, "playing"),
        "paused": ("paused", "paused"),
        "over": (f"{outcome}: keep it?", "waiting"),
        "stopped": ("stopped", "paused"),
    }[session.phase]
    of_all = "" if session.episodes is None else f" of {session.episodes}"
    facts = [
        f"episode {session.kept + 1}{of_all}",
        f"seed {session.seed}",
        f"{session.kept} kept",
        *([] if session.step_per_key else [f"speed {speed:g}"]),
    ]
    return Panel(
        status,
        tone,
        f"return {session.total_return:.1f}    step {session.steps}",
        "     ".join(facts),
        key_legend(controls),
        ("Enter  keep", "Backspace  retry", "Space  pause", ".  one step", "Esc  stop"),
    )


def key_legend(controls: Controls) -> tuple[str, ...]:
    """What the keys do, in words."""
    if controls.use_mouse:
        return ("the mouse in the picture is the action",)
    return tuple(map(str, controls.bindings))
