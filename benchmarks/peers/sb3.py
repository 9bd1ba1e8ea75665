"""Train Stable-Baselines3 on a workload given as JSON; print steps and seconds of steady state."""

import json
import sys
import time
from importlib.metadata import version

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

workload = json.loads(sys.argv[1])
hyperparameters = workload["hyperparameters"]


class Clock(BaseCallback):
    """A clock from the first rollout after `skip` steps to the end of training."""

    start = stop = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.start is None and self.model.num_timesteps >= workload["skip"]:
            self.start = self.model.num_timesteps, time.perf_counter()

    def _on_training_end(self) -> None:
        self.stop = self.model.num_timesteps, time.perf_counter()


def dqn() -> dict:
    return replay_options() | {
        "max_grad_norm": hyperparameters["max_gradient_norm"],
        "target_update_interval": hyperparameters["target_interval"],
        "exploration_initial_eps": hyperparameters["exploration"]["initial_epsilon"],
        "exploration_final_eps": hyperparameters["exploration"]["final_epsilon"],
        "exploration_fraction": min(1.0, hyperparameters["exploration_steps"] / workload["steps"]),
    }


def ppo() -> dict:
    return (
        rollout_options()
        | loss_options()
        | {
            "n_epochs": hyperparameters["epochs"],
            "clip_range": hyperparameters["clip"],
            "batch_size": hyperparameters["batch_size"],
        }
    )


def a2c() -> dict:
    return rollout_options() | loss_options()


def trpo() -> dict:
    return rollout_options() | {
        "batch_size": hyperparameters["batch_size"],
        "target_kl": hyperparameters["kl_limit"],
        "cg_damping": hyperparameters["damping"],
        "cg_max_steps": hyperparameters["conjugate_steps"],
        "line_search_shrinking_factor": hyperparameters["line_search_shrink"],
        "line_search_max_iter": hyperparameters["line_search_steps"],
        "n_critic_updates": hyperparameters["value_epochs"],
        "sub_sampling_factor": hyperparameters["fisher_interval"],
    }


def rollout_options() -> dict:
    return {
        "n_steps": hyperparameters["rollout_length"],
        "gae_lambda": hyperparameters["gae_lambda"],
        "normalize_advantage": hyperparameters["normalize_advantage"],
    }


def loss_options() -> dict:
    return {
        "ent_coef": hyperparameters["entropy_coefficient"],
        "vf_coef": hyperparameters["value_coefficient"],
        "max_grad_norm": hyperparameters["max_gradient_norm"],
    }


def sac() -> dict:
    return replay_options() | {"tau": hyperparameters["target_rate"], "ent_coef": "auto"}


def td3() -> dict:
    return replay_options() | {
        "tau": hyperparameters["target_rate"],
        "policy_delay": hyperparameters["policy_interval"],
        "target_policy_noise": hyperparameters["target_noise"],
        "target_noise_clip": hyperparameters["target_noise_clip"],
        "action_noise": NormalActionNoise(
            np.zeros(1), hyperparameters["exploration_noise"] * np.ones(1)
        ),
    }


def replay_options() -> dict:
    return {
        "batch_size": hyperparameters["batch_size"],
        "buffer_size": hyperparameters["capacity"],
        "learning_starts": hyperparameters["warmup_steps"],
        "train_freq": hyperparameters["rollout_length"],
        "gradient_steps": hyperparameters["gradient_steps"],
    }


def make_model(library, environment, activations: dict):
    """Return the agent of the workload in `library`, on vectorized environments."""
    algorithm, policy_class = getattr(library, workload["algorithm"].upper(), None), "MlpPolicy"
    options = {"a2c": a2c, "dqn": dqn, "ppo": ppo, "sac": sac, "td3": td3, "trpo": trpo}[
        workload["algorithm"]
    ]()
    policy_options = {
        "net_arch": hyperparameters["hidden"],
        "activation_fn": activations[hyperparameters["activation"]],
    }
    if recurrent := hyperparameters.get("recurrent"):  # an LSTM
        algorithm, policy_class = library.RecurrentPPO, "MlpLstmPolicy"
        policy_options |= {"lstm_hidden_size": recurrent["units"]}
    return algorithm(
        policy_class,
        environment,
        learning_rate=hyperparameters["learning_rate"],
        gamma=hyperparameters["discount"],
        seed=workload["seed"],
        policy_kwargs=policy_options,
        device="cpu",
        **options,
    )


def run(library, activations: dict, packages: tuple[str, ...]) -> None:
    """Train the algorithm of the workload in `library` and print steps, seconds and versions."""
    environment = make_vec_env(
        workload["environment"],
        workload["num_envs"],
        seed=workload["seed"],
        env_kwargs={"render_mode": None, "disable_env_checker": True},
    )
    model = make_model(library, environment, activations)
    clock = Clock()
    model.learn(workload["steps"], callback=clock)
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
