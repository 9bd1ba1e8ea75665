"""mbrl-lib's CEM on the pendulum, written in torch, at the work given as JSON; says how long a plan
took.

Samples are clipped to the box, as etude's are, and the standard deviations begin with 1; they are
the unbiased ones.
"""

import json
import math
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).parents[1]))
import stopwatch  # noqa: E402
import torch  # noqa: E402
from mbrl.planning import CEMOptimizer  # noqa: E402

work = json.loads(sys.argv[1])
samples, horizon = work["samples"], work["horizon"]
torch.manual_seed(work["seed"])


def worth(plans):
    """The returns [sample] of torques [sample, horizon, 1], in [-1, 1], of Gymnasium's
    Pendulum-v1."""
    angle, rate, total = torch.full((samples,), 3.0), torch.zeros(samples), torch.zeros(samples)
    for torque in (2 * plans[..., 0]).unbind(1):
        wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
        total = total - (wrapped**2 + 0.1 * rate**2 + 0.001 * torque**2)
        rate = (rate + 0.05 * (15 * torch.sin(angle) + 3 * torque)).clamp(-8, 8)
        angle = angle + 0.05 * rate
    return total


bounds = torch.ones(horizon, 1)
planner = CEMOptimizer(
    work["iterations"],
    work["elites"] / samples,
    samples,
    (-bounds).tolist(),
    bounds.tolist(),
    work["smoothing"],
    torch.device("cpu"),
    clipped_normal=True,
)
with torch.inference_mode():
    start = torch.zeros(horizon, 1)
    took = stopwatch.seconds(lambda: planner.optimize(worth, start), work["budget"])
    best = planner.optimize(worth, start)
    cost = -float(worth(best.expand(samples, -1, -1))[0])
print(
    json.dumps(
        {
            "steps": 1,
            "seconds": took,
            "cost": cost,
            "versions": {name: version(name) for name in ("mbrl", "torch")},
        }
    )
)
