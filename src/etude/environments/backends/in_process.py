"""Vectorized Gymnasium environments, stepped one after another in a Python loop.

The results of a step cross to the compiled loop as one array of bytes with a row for each
environment; `StepLayout` says where each field lies. This module needs NumPy and Gymnasium alone,
so that worker processes start without JAX.
"""

import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from etude.environments.backends.boundary import Boundary
from etude.environments.backends.episode_log import DIGEST_BYTES, EpisodeLog, EpisodeSeeds
from etude.environments.backends.step_layout import NEXT_OBSERVATION, OBSERVATION, StepLayout
from etude.environments.backends.watchdog import TIMEOUT, CallTimeout, Watchdog
from etude.errors import EnvironmentFault, InvalidInput

SUCCESS = "is_success"  # the key of Gymnasium-Robotics in the info of a step


class HostLimits(NamedTuple):
    """The limits of Python environments."""

    max_episode_steps: int | None = None  # after which an episode is truncated
    replay: int = 0  # steps of an episode that are logged, so that a resume can replay it; 0: none
    timeout: float = TIMEOUT  # seconds that one call may take; 0: no limit
    episodes: int | None = None  # after which an environment rests until the next `reset`


NO_LIMITS = HostLimits()


class InProcessEnvs:
    """A batch of `count` environments; errors number them from `first_index` on.

    Each episode begins with a seed that follows from the seed of `reset`, the number of the
    environment and that of the episode.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        count: int,
        layout: StepLayout,
        first_index: int = 0,
        limits: HostLimits = NO_LIMITS,
        on_stuck: Callable[[str], None] | None = None,
    ):
        self.name, self.first_index, self.layout = "the environment", first_index, layout
        self.limits = limits
        self.called_index = 0  # the environment that is called
        self.call_phase = ""  # "when it was made" or "when it was closed"; "" in steps and resets
        self.steps = [0] * count  # taken by each environment
        self.first_steps = [0] * count  # those before the running episode
        self.episodes = [0] * count  # the number of the running one
        self.seeds = [EpisodeSeeds(0, first_index + i) for i in range(count)]
        self.watchdog = Watchdog(
            lambda: (
                self.called_index,
                self.steps[self.called_index],
                self.episodes[self.called_index],
            ),
            limits.timeout,
            lambda: str(self._fault(self.called_index, CallTimeout(), self.call_phase)),
            on_stuck,
        )
        self.envs: list[gymnasium.Env] = []
        try:
            self._call_all(lambda i: self.envs.append(self._made(make_env)), "when it was made")
        except BaseException:
            self.close()
            raise
        self.name = getattr(self.envs[0].spec, "id", type(self.envs[0].unwrapped).__name__)
        self.rows = np.zeros(count, layout.dtype)
        self.steps_field = self.rows["steps"]
        self.boundary = Boundary(layout, self.rows)
        self.bytes = self.rows.view(np.uint8).reshape(count, -1)
        self.recorder = Recorder(layout, self.bytes, limits.replay) if limits.replay else None
        self.is_resting = [False] * count
        self.ended: list[int] = []  # whose episode ended in the latest step
        self.notice_given = False
        # of each environment's finished episodes that say so, by `is_success` of their last info
        self.successes: list[list[bool]] = [[] for _ in range(count)]

    def reset(self, seed: int) -> np.ndarray:
        """Reset every environment; rows of bytes [count, byte] as `step` returns them."""
        count = len(self.envs)
        self.seeds = [EpisodeSeeds(seed, self.first_index + i) for i in range(count)]
        self.successes = [[] for _ in self.envs]
        self.episodes, self.first_steps = [-1] * count, list(self.steps)
        self.is_resting = [False] * count
        self._call_all(self._begin_episode)
        for field, next_field in self.boundary.observation_pairs:
            next_field[...] = field
        self.rows["reward"], self.rows["terminated"], self.rows["truncated"] = 0, 0, 0
        return self._counted_rows([*range(count)])

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Step every environment and reset those that are done.

        Returns the rows of bytes [count, byte], which the next call overwrites.
        """
        env_actions = self.layout.native_actions(actions)
        if self.recorder:
            self.recorder.actions = actions.tobytes()
        self.ended.clear()
        self._call(self._step_all, env_actions)
        self.steps_field += 1
        return self._checked_rows(self.ended)

    def episode_log(self) -> EpisodeLog:
        """The running episodes, from which `replay` goes on."""
        assert self.recorder is not None  # as `limits.replay` asks for
        logged, actions, digests = self.recorder.arrays()
        return EpisodeLog(
            seed=np.array([seeds.seed for seeds in self.seeds], np.uint32),
            episode=np.array(self.episodes, np.int64),
            steps=np.array(self.steps, np.int64),
            length=np.array([self._length(i) for i in range(len(self.envs))], np.int64),
            logged=logged,
            actions=actions,
            digests=digests,
        )

    def replay(self, log: EpisodeLog) -> tuple[np.ndarray, list[str]]:
        """Bring each environment to where its episode in `log` was.

        Returns the rows, and for each environment why its episode could not be replayed and a new
        one has begun, "" where it could.
        """
        count, size = len(self.envs), self.layout.action_bytes
        self.seeds = [EpisodeSeeds(int(log.seed[i]), self.first_index + i) for i in range(count)]
        self.episodes, reasons = log.episode.tolist(), [""] * count
        action_ends, digest_ends = np.cumsum(log.logged) * size, np.cumsum(log.num_digests)

        def replay_one(i: int) -> None:
            actions = log.actions[action_ends[i] - log.logged[i] * size : action_ends[i]]
            digests = log.digests[digest_ends[i] - log.num_digests[i] : digest_ends[i]]
            self.steps[i] = int(log.steps[i] - log.length[i])
            reasons[i] = self._replay_episode(i, actions, digests, int(log.length[i]))
            if reasons[i]:
                self.steps[i] = int(log.steps[i])
                self._begin_episode(i)

        self._call_all(replay_one)
        begun = [i for i in range(count) if reasons[i] or not log.logged[i]]
        self.boundary.begin_rows(begun)
        return self._counted_rows(begun), reasons

    def notices(self) -> list[str]:
        """What a person should know of these environments, once."""
        notice = "" if self.notice_given else self.boundary.notice()
        self.notice_given |= bool(notice)
        return [f"{self.name}: {notice}"] if notice else []

    def close(self) -> None:
        """Close the environments, and end the watch over their calls.

        Warns of those that fail, which is too late to be an error.
        """

        def close_one(i: int) -> None:
            try:
                if i < len(self.envs):
                    self.envs[i].close()
            except (Exception, SystemExit, CallTimeout) as error:
                fault = self._fault(i, error, "when it was closed")
                warnings.warn(str(fault), RuntimeWarning, stacklevel=2)

        try:
            self._call_all(close_one, "when it was closed")
        finally:
            self.watchdog.close()

    def _made(self, make_env: Callable[[], gymnasium.Env]) -> gymnasium.Env:
        env = make_env()
        check_same_spaces(env, self.layout)
        return env

    def _step_all(self, actions: Any) -> None:
        # this runs for each step of training, with cold caches: what it looks up, it looks up once
        envs, steps, is_resting, recorder = self.envs, self.steps, self.is_resting, self.recorder
        read_step, max_steps = self.boundary.read_step, self.limits.max_episode_steps
        for i, action in enumerate(actions):
            self.called_index = i
            if is_resting[i]:
                self.boundary.clear_step(i)
                continue
            steps[i] += 1
            is_over = read_step(i, result := envs[i].step(action))
            if max_steps and self._length(i) >= max_steps:
                is_over = True
                self.rows["truncated"][i] |= not self.rows["terminated"][i]
            if recorder:
                recorder.add_step(i)
            if is_over:
                self._end_episode(i, result[4])

    def _end_episode(self, i: int, info: dict[str, Any]) -> None:
        if SUCCESS in info:
            self.successes[i].append(bool(info[SUCCESS]))
        self.is_resting[i] = self.episodes[i] + 1 == self.limits.episodes
        if not self.is_resting[i]:
            self.ended.append(i)
            self._begin_episode(i)

    def _begin_episode(self, i: int) -> None:
        """Reset an environment with the seed of its next episode."""
        self.episodes[i] += 1
        self.first_steps[i] = self.steps[i]
        self.boundary.read_reset(i, self.envs[i].reset(seed=self.seeds[i](self.episodes[i])))
        if self.recorder:
            self.recorder.begin(i)

    def _replay_episode(self, i: int, actions: np.ndarray, digests: np.ndarray, length: int) -> str:
        """Play an episode again; returns why it could not, "" where the digests are the same."""
        if not len(digests) or length > self.limits.replay:
            return f"its {length:,} steps are more than those that are logged (replay_limit)"
        assert self.recorder is not None
        played = actions.view(self.layout.action_dtype).reshape(-1, *self.layout.action_shape)
        native_actions = self.layout.native_actions(played)
        self.episodes[i] -= 1
        for time in range(len(digests)):
            try:
                if time == 0:
                    self._begin_episode(i)
                else:
                    self.steps[i] += 1
                    self.recorder.actions = played[time - 1].tobytes()
                    self.boundary.read_step(i, self.envs[i].step(native_actions[time - 1]))
                    if self._length(i) == self.limits.max_episode_steps:
                        self.rows["truncated"][i] |= not self.rows["terminated"][i]
                    self.recorder.add_step(i, 0)
            except (Exception, SystemExit, CallTimeout) as error:  # as it did not at first
                return f"step {time} of its replay fails: {error!r}"
            if self.recorder.last_digest(i) != digests[time]:
                what = "the first observation of the episode" if time == 0 else f"step {time}"
                return f"the environment is not deterministic given its seed: {what} differs"
        return ""

    def _length(self, i: int) -> int:
        """The number of steps of the running episode."""
        return self.steps[i] - self.first_steps[i]

    def _counted_rows(self, begun: list[int]) -> np.ndarray:
        """As `_checked_rows`, where environments may have taken any number of steps."""
        self.steps_field[...] = np.array(self.steps, np.int64).astype(np.int32)  # wraps at 2³¹
        return self._checked_rows(begun).copy()

    def _checked_rows(self, begun: list[int]) -> np.ndarray:
        """The rows after a step in which the episodes of the environments in `begun` have begun."""
        if found := self.boundary.read_batch(begun):
            raise self._fault(found[0], EnvironmentFault(found[1]))
        return self.bytes

    def _call_all(self, call: Callable[[int], Any], phase: str = "") -> None:
        """Call a function of each environment's number, as `_call` does."""

        def call_each() -> None:
            for i in range(len(self.steps)):
                self.called_index = i
                call(i)

        self._call(call_each, phase=phase)

    def _call(self, call: Callable[..., Any], *arguments: Any, phase: str = "") -> None:
        """Call a function of the environments, under the time limit.

        Raises EnvironmentFault for what goes wrong in it, with copy, step and seed.
        """
        self.call_phase = phase
        try:
            self.watchdog.begin()
            try:
                call(*arguments)
            finally:
                self.watchdog.end()
        except (KeyboardInterrupt, InvalidInput):
            raise
        except EnvironmentFault as fault:
            raise self._fault(self.called_index, fault, phase) from None
        except BaseException as error:  # also where it calls sys.exit
            raise self._fault(self.called_index, error, phase) from error

    def _fault(self, i: int, error: BaseException, phase: str = "") -> EnvironmentFault:
        match error:
            case EnvironmentFault():
                reason = str(error)
            case CallTimeout():
                reason = (
                    f"it did not return within {self.limits.timeout:g} seconds; allow more with "
                    "environment_timeout, or mend it"
                )
            case SystemExit():
                reason = f"it called sys.exit({error.code!r})"
            case TypeError() if "argument 'seed'" in str(error):
                reason = (
                    "its reset() takes no seed: write `def reset(self, *, seed=None, options=None)`"
                    ", and in it `super().reset(seed=seed)`"
                )
            case _:
                reason = f"it raised {type(error).__name__}: {error}"
        when = phase or (f"at its step {self.steps[i]}" if self.steps[i] else "at its first reset")
        seed = self.seeds[i](max(self.episodes[i], 0))
        where = "" if phase else f" (step {self._length(i)} of its episode with seed {seed})"
        return EnvironmentFault(
            f"copy {self.first_index + i} of {self.name} failed {when}: {reason}{where}"
        )


class Recorder:
    """Keeps the actions and the digests of the running episode of each environment."""

    def __init__(self, layout: StepLayout, rows: np.ndarray, limit: int):
        self.limit, self.size = limit, layout.action_bytes
        self.actions = b""  # of all environments, in their order
        self.episode_actions = [bytearray() for _ in rows]  # of each environment
        self.digests = [bytearray() for _ in rows]
        self.first_spans, self.step_spans = (
            [[memoryview(row[span]) for span in layout.spans(*names)] for row in rows]
            for names in ((OBSERVATION,), (NEXT_OBSERVATION, "reward", "terminated", "truncated"))
        )

    def begin(self, i: int) -> None:
        """Begin the log of an episode, whose first observation is in the row."""
        self.episode_actions[i].clear()
        self.digests[i].clear()
        self._add_digest(i, self.first_spans[i])

    def add_step(self, i: int, index: int | None = None) -> None:
        """Log a step, whose result is in the row and whose action is `actions` number `index`."""
        if not self.digests[i]:  # the episode is longer than what is logged
            return
        if len(self.digests[i]) > self.limit * DIGEST_BYTES:
            self.episode_actions[i].clear()
            self.digests[i].clear()
            return
        start = (i if index is None else index) * self.size
        self.episode_actions[i] += self.actions[start : start + self.size]
        self._add_digest(i, self.step_spans[i])

    def last_digest(self, i: int) -> int:
        """The digest of the newest step, or of the first observation."""
        return int.from_bytes(self.digests[i][-DIGEST_BYTES:], "little")

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`logged`, `actions` and `digests` of an EpisodeLog."""
        steps = [len(digests) // DIGEST_BYTES - 1 for digests in self.digests]
        return (
            np.array([max(count, 0) for count in steps], np.int64),
            np.frombuffer(b"".join(self.episode_actions), np.uint8),
            np.frombuffer(b"".join(self.digests), np.dtype("<u4")),
        )

    def _add_digest(self, i: int, spans: list[memoryview]) -> None:
        digest = 0
        for span in spans:
            digest = zlib.crc32(span, digest)
        self.digests[i] += digest.to_bytes(DIGEST_BYTES, "little")


def check_same_spaces(env: gymnasium.Env, layout: StepLayout) -> None:
    """Raise EnvironmentFault where the spaces of an environment are not those of the others."""
    for role in ("observation_space", "action_space"):
        space, expected = getattr(env, role), getattr(layout, role)
        if not is_same_space(space, expected):
            raise EnvironmentFault(
                f"its {role} is {space}, and that of the others is {expected}; every copy needs "
                "the same"
            )


def is_same_space(space: gymnasium.Space, other: gymnasium.Space) -> bool:
    """Whether two spaces are equal; MultiBinary(3) is MultiBinary((3,))."""
    gym_spaces = gymnasium.spaces
    match space, other:
        case gym_spaces.MultiBinary(), gym_spaces.MultiBinary():
            return space.shape == other.shape
        case gym_spaces.Dict(), gym_spaces.Dict():
            return space.keys() == other.keys() and all(
                is_same_space(space[key], other[key]) for key in space
            )
        case gym_spaces.Tuple(), gym_spaces.Tuple():
            return len(space) == len(other) and all(
                is_same_space(*parts) for parts in zip(space, other, strict=True)
            )
    return space == other
