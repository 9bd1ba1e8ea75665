"""Train sb3-contrib on a workload given as JSON and evaluate it; print the return of each episode.

The workload is that of `learning.py`: the settings of a preset, with a seed and a number of
episodes. Observations and rewards are normalized by SB3's own wrapper where the preset's are.
"""

import json
import time
from importlib.metadata import version

import sb3
import sb3_contrib
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

PACKAGES = ("sb3-contrib", "stable-baselines3", "torch", "gymnasium", "numpy")
EVALUATION_SEED = 2**31  # evaluation plays other episodes than training


def make_environments(num_envs: int, seed: int, training: bool) -> VecNormalize:
    """Return environments, normalized as the workload says but for rewards in evaluation."""
    observation, reward = (
        sb3.hyperparameters[f"normalize_{name}"] for name in ("observation", "reward")
    )
    return VecNormalize(
        make_vec_env(sb3.workload["environment"], num_envs, seed=seed),
        training=training,
        norm_obs=observation is not None,
        norm_reward=training and reward is not None,
        clip_obs=observation["clip"] if observation else float("inf"),
        clip_reward=reward["clip"] if reward else float("inf"),
        gamma=sb3.hyperparameters["discount"],
    )


def main() -> None:
    torch.set_num_threads(1)
    start, workload = time.perf_counter(), sb3.workload
    environments = make_environments(workload["num_envs"], workload["seed"], training=True)
    activations = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
    model = sb3.make_model(sb3_contrib, environments, activations)
    model.learn(workload["steps"])
    seed = EVALUATION_SEED + workload["seed"]
    evaluation = make_environments(1, seed, training=False)
    if evaluation.norm_obs:
        evaluation.obs_rms = environments.obs_rms
    returns, _ = evaluate_policy(
        model,
        evaluation,
        n_eval_episodes=workload["episodes"],
        deterministic=True,
        return_episode_rewards=True,
    )
    result = {
        "returns": [float(value) for value in returns],
        "steps": model.num_timesteps,
        "seconds": time.perf_counter() - start,
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
