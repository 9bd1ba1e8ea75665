"""Run mbrl-lib's PETS on its continuous cart-pole with its own settings; print what it reached.

The first argument is a workload as JSON: `seed`, `budget` in seconds, and `overrides` of mbrl-lib's
settings, "name=value" each. The run ends with an episode of 200, or with the budget. Printed are
the episodes that it planned, as [seconds, environment steps so far, return], and the seconds of a
planned step.
"""

import contextlib
import json
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

warnings.simplefilter("ignore")
import mbrl  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from mbrl.algorithms import pets  # noqa: E402
from mbrl.env import cartpole_continuous, reward_fns, termination_fns  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

workload = json.loads(sys.argv[1])
LIMIT = 200  # steps of an episode, and its largest return


class Over(Exception):
    """The run is over."""


class Watched(cartpole_continuous.CartPoleEnv):
    """The environment with its time limit, which notes when each episode ended."""

    def __init__(self):
        super().__init__()
        self.steps, self.episodes, self.episode_steps, self.planned = 0, [], 0, []
        self.begun = self.last = time.perf_counter()

    def reset(self, **kwargs):
        self.episode_steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        now = time.perf_counter()
        self.steps, self.episode_steps = self.steps + 1, self.episode_steps + 1
        if self.steps > settings.algorithm.initial_exploration_steps:
            self.planned.append(now - self.last)
            if terminated or self.episode_steps == LIMIT:
                self.episodes.append((now - self.begun, self.steps, self.episode_steps))
        self.last = now
        if now - self.begun > workload["budget"] or (
            self.episodes and self.episodes[-1][2] == LIMIT
        ):
            raise Over
        return observation, reward, terminated, self.episode_steps == LIMIT, info


torch.set_num_threads(workload.get("threads", torch.get_num_threads()))
torch.manual_seed(workload["seed"])
np.random.seed(workload["seed"])
folder = Path(mbrl.__file__).parent / "examples" / "conf"
settings = OmegaConf.create(
    {
        **{
            group: OmegaConf.load(folder / group / f"{name}.yaml")
            for group, name in (
                ("algorithm", "pets"),
                ("dynamics_model", "gaussian_mlp_ensemble"),
                ("overrides", "pets_cartpole"),
            )
        },
        # the package leaves this file of its repository out
        "action_optimizer": {
            "_target_": "mbrl.planning.CEMOptimizer",
            "num_iterations": "${overrides.cem_num_iters}",
            "elite_ratio": "${overrides.cem_elite_ratio}",
            "population_size": "${overrides.cem_population_size}",
            "alpha": "${overrides.cem_alpha}",
            "lower_bound": "???",
            "upper_bound": "???",
            "return_mean_elites": True,
            "device": "${device}",
            "clipped_normal": "${overrides.cem_clipped_normal}",
        },
        "seed": workload["seed"],
        "device": "cpu",
        "debug_mode": False,
        "log_frequency_agent": 1000,
        "save_video": False,
    }
)
for node in (settings.dynamics_model, settings.algorithm.agent):
    node["_recursive_"] = False  # current hydra would make their parts too early
for override in workload.get("overrides", ()):
    name, value = override.split("=")
    OmegaConf.update(settings, name, yaml.safe_load(value))
env = Watched()
with tempfile.TemporaryDirectory() as directory, contextlib.suppress(Over):
    pets.train(
        env,
        termination_fns.cartpole,
        reward_fns.cartpole,
        settings,
        silent=True,
        work_dir=directory,
    )
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - env.begun,
            "steps": env.steps,
            "episodes": env.episodes,
            "seconds_per_planned_step": float(np.median(env.planned)) if env.planned else None,
            "versions": {name: version(name) for name in ("mbrl", "torch")},
        }
    )
)
