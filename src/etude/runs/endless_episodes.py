"""A warning where no episode ends in training, so that there is no return to show."""

from etude.runs.settings import Settings
from etude.training import ProgressReport

FIRST_STEPS = 2_000  # of each copy of the environment, without the end of an episode
LIMIT = 1_000  # steps, the example of a limit


class EndlessEpisodes:
    """Notices once that no episode has ended since training, or this session of it, began."""

    def __init__(self, settings: Settings, steps: int):
        self.settings, self.first_step, self.is_settled = settings, steps, not settings.plays

    def warning(self, report: ProgressReport) -> str:
        """The warning that this report gives rise to, "" for most."""
        if self.is_settled:
            return ""
        steps = (report.steps - self.first_step) // self.settings.num_envs
        has_ended = bool(report.metrics["episodes"].any())
        self.is_settled = has_ended or steps >= FIRST_STEPS
        if has_ended or not self.is_settled:
            return ""
        return (
            f"no episode has ended in {steps:,} steps of each copy, so there is no return of "
            f"training yet; if episodes may go on for ever, limit them: {self.remedy()}"
        )

    def remedy(self) -> str:
        """What limits the episodes of the run's environment."""
        match self.settings.environment_kind:
            case "id":
                return f"--options max_episode_steps={LIMIT}"
            case "factory":
                return f"gymnasium.wrappers.TimeLimit(env, {LIMIT})"
            case _:
                return f"etude.environments.wrappers.time_limit.TimeLimit(environment, {LIMIT})"
