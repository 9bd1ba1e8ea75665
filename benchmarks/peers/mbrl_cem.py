"""Run mbrl-lib's CEM on the pendulum in torch, on a workload given as JSON; print the seconds.

Samples are clipped to the bounds, as in etude. The initial standard deviations are 1, and later
ones are the unbiased estimates.
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

workload = json.loads(sys.argv[1])
samples, horizon = workload["samples"], workload["horizon"]
torch.manual_seed(workload["seed"])


def returns(plans):
    """Returns [sample] of torques [sample, horizon, 1] in [-1, 1] on Pendulum-v1."""
    angle, rate, total = torch.full((samples,), 3.0), torch.zeros(samples), torch.zeros(samples)
    for torque in (2 * plans[..., 0]).unbind(1):
        wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
        total = total - (wrapped**2 + 0.1 * rate**2 + 0.001 * torque**2)
        rate = (rate + 0.05 * (15 * torch.sin(angle) + 3 * torque)).clamp(-8, 8)
        angle = angle + 0.05 * rate
    return total


bounds = torch.ones(horizon, 1)
planner = CEMOptimizer(
    workload["iterations"],
    workload["elites"] / samples,
    samples,
    (-bounds).tolist(),
    bounds.tolist(),
    workload["smoothing"],
    torch.device("cpu"),
    clipped_normal=True,
)
with torch.inference_mode():
    start = torch.zeros(horizon, 1)
    seconds = stopwatch.median_seconds(lambda: planner.optimize(returns, start), workload["budget"])
    best_plan = planner.optimize(returns, start)
    cost = -float(returns(best_plan.expand(samples, -1, -1))[0])
print(
    json.dumps(
        {
            "steps": 1,
            "seconds": seconds,
            "cost": cost,
            "versions": {name: version(name) for name in ("mbrl", "torch")},
        }
    )
)
