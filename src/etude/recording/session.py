"""Sessions of a person at the keyboard as state machines: what each command does, without a window.

    ready      an episode has begun, and waits for the first key
    playing    it goes on at its speed, or a step for each key
    paused     it stands still; single steps can be taken
    over       its last step is taken; it waits for whether it is kept
    stopped    nothing goes on any more

`Session` records: its commands lead to decisions on the running episode, which whoever plays takes
out with `take_decision`. In `Interventions` a learner plays, and the person takes over.
"""

import dataclasses
from typing import Literal

Command = Literal["keep", "discard", "pause", "step", "take over", "stop"]
Phase = Literal["ready", "playing", "paused", "over", "stopped"]
Decision = Literal["keep", "discard", "stop"]


@dataclasses.dataclass
class Session:
    """Where a recording stands.

    Args:
        first_seed: of the first episode; each kept episode is followed by the next seed, and a
            discarded one by the same.
        step_per_key: whether a step is taken for each press of a key, and none without one.
        episodes: after how many kept ones the session stops; None for no end.
    """

    first_seed: int = 0
    step_per_key: bool = False
    episodes: int | None = None
    phase: Phase = "ready"
    kept: int = 0
    steps: int = 0  # of the running episode
    total_return: float = 0.0  # of the running episode
    success: bool | None = None  # of the running episode; None where the environment does not say
    decision: Decision | None = None
    single_steps: int = 0  # that were asked for

    @property
    def seed(self) -> int:
        """The seed of the running episode."""
        return self.first_seed + self.kept

    @property
    def is_step_due(self) -> bool:
        """Whether the next step may be taken now, as far as it depends on the person."""
        return bool(self.single_steps) or (self.phase == "playing" and not self.step_per_key)

    def command(self, command: Command) -> None:
        """Do what a person asks for, where it means anything now."""
        match command, self.phase:
            case _, "stopped":
                return
            case "stop", _ if self.decision == "keep":
                self.episodes = self.kept + 1
            case _ if self.decision is not None:
                return
            case "keep", "over" | "playing" | "paused" if self.steps:
                self.decision = "keep"
            case "discard", _ if self.steps:
                self.decision = "discard"
            case "pause", "playing":
                self.phase = "paused"
            case "keep" | "pause", "ready" | "paused":
                self.phase = "playing"
            case "step", "ready" | "playing" | "paused":
                self.phase = "playing" if self.step_per_key else "paused"
                self.single_steps += 1
            case "stop", _:
                # whole episodes are kept, and of what is not whole nothing
                self.decision = "keep" if self.phase == "over" else "stop"
                self.episodes = self.kept + (self.phase == "over")

    def press_control(self) -> None:
        """A key that means an action went down: an episode begins with it, or a step is due."""
        if self.phase == "ready":
            self.phase = "playing"
        if self.phase == "playing" and self.step_per_key:
            self.single_steps += 1

    def lose_focus(self) -> None:
        """The window lost the keyboard."""
        if self.phase == "playing":
            self.phase = "paused"
        self.single_steps = 0

    def add_step(self, reward: float, is_over: bool, success: bool | None) -> None:
        """A step was taken."""
        self.steps += 1
        self.total_return += reward
        self.single_steps = max(0, self.single_steps - 1)
        if success is not None:
            self.success = success
        if is_over:
            self.phase, self.single_steps = "over", 0

    def take_decision(self) -> Decision | None:
        """The decision on the running episode, if there is one; a new episode then begins."""
        decision, self.decision = self.decision, None
        if decision is None:
            return None
        self.kept += decision == "keep"
        self.steps, self.total_return, self.success, self.single_steps = 0, 0.0, None, 0
        is_last = decision == "stop" or (self.episodes is not None and self.kept >= self.episodes)
        self.phase = "stopped" if is_last else "ready"
        return decision


@dataclasses.dataclass
class Interventions:
    """Where a round stands in which a learner plays and a person may take over.

    With `step_per_key`, a step of the person is taken for each press of a key; the learner goes on
    by itself.
    """

    step_per_key: bool = False
    has_control: bool = False  # whether the person plays
    phase: Phase = "ready"
    steps: int = 0  # of the round
    labels: int = 0  # of them those in which the person played
    single_steps: int = 0

    @property
    def is_step_due(self) -> bool:
        """Whether the next step may be taken now, as far as it depends on the person."""
        waits = self.step_per_key and self.has_control
        return bool(self.single_steps) or (self.phase == "playing" and not waits)

    def command(self, command: Command) -> None:
        """Do what a person asks for, where it means anything now."""
        match command, self.phase:
            case _, "stopped":
                return
            case "take over", _:
                self.has_control, self.single_steps = not self.has_control, 0
            case "pause", "playing":
                self.phase = "paused"
            case "keep" | "pause", "ready" | "paused":
                self.phase = "playing"
            case "step", _:
                self.phase, self.single_steps = "paused", self.single_steps + 1
            case "stop", _:
                self.phase, self.has_control, self.single_steps = "stopped", False, 0

    def press_control(self) -> None:
        """A key that means an action went down: a round begins with it, or a step is due."""
        if self.phase == "ready":
            self.phase = "playing"
        if self.phase == "playing" and self.step_per_key and self.has_control:
            self.single_steps += 1

    def lose_focus(self) -> None:
        """The window lost the keyboard."""
        if self.phase == "playing":
            self.phase = "paused"
        self.single_steps = 0

    def add_step(self) -> None:
        """A step was taken."""
        self.steps += 1
        self.labels += self.has_control
        self.single_steps = max(0, self.single_steps - 1)

    def begin_round(self) -> None:
        """A round begins, in which the person is asked once more for a first key."""
        self.steps = self.labels = self.single_steps = 0
        if self.phase != "stopped":
            self.phase = "ready"
