"""Warnings about metrics that are finite and yet say that a run does not learn."""

import math

EXPLODED = 1e10  # no loss or value of a run that learns is so large, whatever the unit of rewards
# of the environment, which may be of any size
MEASURED = ("episode_return", "episode_length", "evaluation_return", "evaluation_length")
EDGE_MASS = "support_edge_mass"
DIVERGED_FITS, DIVERGED_PLANS = "diverged_fits", "diverged_plans"


class MetricAlarms:
    """The warnings of a job, each metric's once."""

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def check(self, metrics: dict[str, list[float]], steps: int) -> list[str]:
        """Warnings about metrics [seed] after `steps` steps that were not warned of before."""
        texts = []
        for name, values in metrics.items():
            largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
            if name not in self.warned and (text := _warning(name, largest, steps)):
                self.warned.add(name)
                texts.append(text)
        return texts


def _warning(name: str, value: float, steps: int) -> str:
    if name == EDGE_MASS and value > 0.5:
        return (
            f"{name} is {value:.3g} at step {steps:,}: most of the probability of targets lies on "
            "the ends of the head's support, so returns are outside of it; give --head.v-min and "
            "--head.v-max that bound them, or --head quantile"
        )
    if name == DIVERGED_FITS and value > 0:
        return (
            f"{name} is {value:.3g} at step {steps:,}: a fit of the model diverged, and the "
            "weights before it are kept; a smaller --model.learning-rate may help"
        )
    if name == DIVERGED_PLANS and value > 0.5:
        return (
            f"{name} is {value:.3g} at step {steps:,}: on most searches the model's predictions of "
            "every plan diverge, and the middle of the box is taken instead; a shorter --horizon, "
            "or more steps before the first fit, may help"
        )
    if name not in MEASURED and value > EXPLODED:
        return (
            f"{name} is {value:.3g} at step {steps:,}, so it has probably diverged; a smaller "
            "learning rate, or normalized rewards, may help"
        )
    return ""
