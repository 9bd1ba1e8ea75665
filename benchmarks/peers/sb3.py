"""Stable-Baselines3 on the work given as JSON; says how many steps its steady state took, and how long."""
import json
import sys
import time
from importlib.metadata import version

import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

work = json.loads(sys.argv[1])
hyper = work["hyperparameters"]
activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[hyper["activation"]]


class Clock(BaseCallback):
    """Runs from the first rollout after `skip` steps to the end: whole rounds of play and update."""
    start = stop = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.start is None and self.model.num_timesteps >= work["skip"]:
            self.start = self.model.num_timesteps, time.perf_counter()

    def _on_training_end(self) -> None:
        self.stop = self.model.num_timesteps, time.perf_counter()


def dqn() -> dict:
    return {
        "max_grad_norm": hyper["max_gradient_norm"], "buffer_size": hyper["capacity"], "learning_starts": hyper["warmup_steps"],
        "train_freq": hyper["rollout_length"], "gradient_steps": hyper["gradient_steps"],
        "target_update_interval": hyper["target_interval"], "exploration_initial_eps": hyper["initial_epsilon"],
        "exploration_final_eps": hyper["final_epsilon"],
        "exploration_fraction": min(1.0, hyper["exploration_steps"] / work["steps"]),
        "policy_kwargs": {"net_arch": hyper["hidden"], "activation_fn": activation}}


def ppo() -> dict:
    return {"n_steps": hyper["rollout_length"], "n_epochs": hyper["epochs"], "gae_lambda": hyper["gae_lambda"],
            "clip_range": hyper["clip"], "normalize_advantage": hyper["normalize_advantage"],
            "ent_coef": hyper["entropy_coefficient"], "vf_coef": hyper["value_coefficient"],
            "max_grad_norm": hyper["max_gradient_norm"],
            "policy_kwargs": {"net_arch": {"pi": hyper["hidden"], "vf": hyper["hidden"]},
                              "activation_fn": activation}}


environment = make_vec_env(work["environment"], work["num_envs"], seed=work["seed"],
                           env_kwargs={"render_mode": None, "disable_env_checker": True})
algorithm = getattr(stable_baselines3, work["algorithm"].upper())
own = {"dqn": dqn, "ppo": ppo}[work["algorithm"]]()
model = algorithm("MlpPolicy", environment, learning_rate=hyper["learning_rate"], gamma=hyper["discount"],
                  batch_size=hyper["batch_size"], seed=work["seed"], device="cpu", **own)
clock = Clock()
model.learn(work["steps"], callback=clock)
print(json.dumps({"steps": clock.stop[0] - clock.start[0], "seconds": clock.stop[1] - clock.start[1],
                  "versions": {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium", "numpy")}}))
