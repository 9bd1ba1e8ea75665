"""Stable-Baselines3 on the work given as JSON; says how many steps its steady state took, and how
long."""

import json
import sys
import time
from importlib.metadata import version

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

work = json.loads(sys.argv[1])
hyper = work["hyperparameters"]


class Clock(BaseCallback):
    """Runs from the first rollout after `skip` steps to the end: whole rounds of play and
    update."""

    start = stop = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.start is None and self.model.num_timesteps >= work["skip"]:
            self.start = self.model.num_timesteps, time.perf_counter()

    def _on_training_end(self) -> None:
        self.stop = self.model.num_timesteps, time.perf_counter()


def dqn() -> dict:
    return replayed() | {
        "max_grad_norm": hyper["max_gradient_norm"],
        "target_update_interval": hyper["target_interval"],
        "exploration_initial_eps": hyper["initial_epsilon"],
        "exploration_final_eps": hyper["final_epsilon"],
        "exploration_fraction": min(1.0, hyper["exploration_steps"] / work["steps"]),
    }


def ppo() -> dict:
    return (
        lived()
        | weighed()
        | {
            "n_epochs": hyper["epochs"],
            "clip_range": hyper["clip"],
            "batch_size": hyper["batch_size"],
        }
    )


def a2c() -> dict:
    return lived() | weighed()


def trpo() -> dict:
    return lived() | {
        "batch_size": hyper["batch_size"],
        "target_kl": hyper["kl_limit"],
        "cg_damping": hyper["damping"],
        "cg_max_steps": hyper["conjugate_steps"],
        "line_search_shrinking_factor": hyper["shrink"],
        "line_search_max_iter": hyper["line_search_steps"],
        "n_critic_updates": hyper["value_epochs"],
        "sub_sampling_factor": hyper["fisher_interval"],
    }


def lived() -> dict:
    return {
        "n_steps": hyper["rollout_length"],
        "gae_lambda": hyper["gae_lambda"],
        "normalize_advantage": hyper["normalize_advantage"],
    }


def weighed() -> dict:
    return {
        "ent_coef": hyper["entropy_coefficient"],
        "vf_coef": hyper["value_coefficient"],
        "max_grad_norm": hyper["max_gradient_norm"],
    }


def sac() -> dict:
    return replayed() | {"tau": hyper["target_rate"], "ent_coef": "auto"}


def td3() -> dict:
    return replayed() | {
        "tau": hyper["target_rate"],
        "policy_delay": hyper["policy_interval"],
        "target_policy_noise": hyper["target_noise"],
        "target_noise_clip": hyper["target_noise_clip"],
        "action_noise": NormalActionNoise(np.zeros(1), hyper["exploration_noise"] * np.ones(1)),
    }


def replayed() -> dict:
    return {
        "batch_size": hyper["batch_size"],
        "buffer_size": hyper["capacity"],
        "learning_starts": hyper["warmup_steps"],
        "train_freq": hyper["rollout_length"],
        "gradient_steps": hyper["gradient_steps"],
    }


def run(library, activations: dict, packages: tuple[str, ...]) -> None:
    """Train the algorithm of that name in `library`, whose activations have these names, and print
    what it took."""
    environment = make_vec_env(
        work["environment"],
        work["num_envs"],
        seed=work["seed"],
        env_kwargs={"render_mode": None, "disable_env_checker": True},
    )
    algorithm, kind = getattr(library, work["algorithm"].upper(), None), "MlpPolicy"
    own = {"a2c": a2c, "dqn": dqn, "ppo": ppo, "sac": sac, "td3": td3, "trpo": trpo}[
        work["algorithm"]
    ]()
    policy = {"net_arch": hyper["hidden"], "activation_fn": activations[hyper["activation"]]}
    if hyper.get("recurrent") == "lstm":
        algorithm, kind = library.RecurrentPPO, "MlpLstmPolicy"
        policy |= {"lstm_hidden_size": hyper["memory_size"]}
    model = algorithm(
        kind,
        environment,
        learning_rate=hyper["learning_rate"],
        gamma=hyper["discount"],
        seed=work["seed"],
        policy_kwargs=policy,
        device="cpu",
        **own,
    )
    clock = Clock()
    model.learn(work["steps"], callback=clock)
    print(
        json.dumps(
            {
                "steps": clock.stop[0] - clock.start[0],
                "seconds": clock.stop[1] - clock.start[1],
                "versions": {name: version(name) for name in packages},
            }
        )
    )


if __name__ == "__main__":
    import stable_baselines3
    import torch

    run(
        stable_baselines3,
        {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh},
        ("stable-baselines3", "torch", "gymnasium", "numpy"),
    )
