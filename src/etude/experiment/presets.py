"""Settings known to work, for an algorithm on an environment, with their source.

"zoo" is rl-baselines3-zoo at 22e3ff2, whose tuned settings name the Stable-Baselines3 defaults (e05d2db) for the rest: for
PPO a learning rate of 3e-4, λ .95, 10 epochs, batches of 64, no entropy bonus and gradients clipped at .5; for DQN gradients
clipped at 10, no double Q, and ε from 1. Its DQN moves the target by environment steps, between rounds of gradient steps;
`target_interval` says the same in gradient steps.
"""
from typing import NamedTuple

from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN


class Preset(NamedTuple):
    """An algorithm, and what it was tuned with."""
    algorithm: DQN | PPO
    num_envs: int
    steps: int


PRESETS: dict[tuple[str, str], Preset] = {
    # zoo dqn's rhythm: 256 steps, then 128 updates at one fixed target. Its network (256, 256), batch 64, learning rate 2.3e-3
    # and Huber loss reach 475 in 3 of 5 seeds here; these, found by trial over eight seeds, in 7 of 8.
    ("dqn", "CartPole-v1"): Preset(DQN(
        learning_rate=1e-3, batch_size=128, capacity=100_000, warmup_steps=1_000, rollout_length=256, gradient_steps=128,
        target_interval=128, exploration_steps=8_000.0, final_epsilon=0.04, hidden=(128, 128), loss="squared", double=False),
        1, 50_000),
    # zoo dqn
    ("dqn", "Acrobot-v1"): Preset(DQN(
        learning_rate=6.3e-4, batch_size=128, capacity=50_000, warmup_steps=0, rollout_length=4, gradient_steps=4,
        target_interval=250, exploration_steps=12_000.0, final_epsilon=0.1, hidden=(256, 256), double=False), 1, 100_000),
    # zoo dqn: the target moves every 600 steps, which see 300 updates
    ("dqn", "MountainCar-v0"): Preset(DQN(
        learning_rate=4e-3, discount=0.98, batch_size=128, capacity=10_000, warmup_steps=1_000, rollout_length=16,
        gradient_steps=8, target_interval=300, exploration_steps=24_000.0, final_epsilon=0.07, hidden=(256, 256),
        double=False), 1, 120_000),
    # zoo dqn
    ("dqn", "LunarLander-v3"): Preset(DQN(
        learning_rate=6.3e-4, batch_size=128, capacity=50_000, warmup_steps=0, rollout_length=4, gradient_steps=4,
        target_interval=250, exploration_steps=12_000.0, final_epsilon=0.1, hidden=(256, 256), double=False), 1, 100_000),
    # zoo ppo: learning rate and clip fall linearly to zero over the budget
    ("ppo", "CartPole-v1"): Preset(PPO(
        learning_rate=1e-3, learning_rate_decay=100_000.0, clip_decay=100_000.0, rollout_length=32, batch_size=256,
        gae_lambda=0.8, discount=0.98, epochs=20), 8, 100_000),
    # zoo ppo
    ("ppo", "Acrobot-v1"): Preset(PPO(
        normalize_observation=True, normalize_reward=True, rollout_length=256, batch_size=64, gae_lambda=0.94, epochs=4),
        16, 1_000_000),
    # zoo ppo
    ("ppo", "MountainCar-v0"): Preset(PPO(
        normalize_observation=True, normalize_reward=True, rollout_length=16, batch_size=64, gae_lambda=0.98, epochs=4),
        16, 1_000_000),
    # zoo ppo, whose state-dependent exploration (std e^-3.29, 20,000 steps of one copy) is plain noise here
    ("ppo", "MountainCarContinuous-v0"): Preset(PPO(
        learning_rate=7.77e-5, normalize_observation=True, normalize_reward=True, rollout_length=256, batch_size=256,
        discount=0.9999, entropy_coefficient=0.00429, clip=0.1, epochs=10, gae_lambda=0.9, max_gradient_norm=5.0,
        value_coefficient=0.19), 8, 100_000),
    # zoo ppo, its state-dependent exploration plain noise here
    ("ppo", "Pendulum-v1"): Preset(PPO(
        learning_rate=1e-3, rollout_length=1024, batch_size=64, discount=0.9, epochs=10), 4, 100_000),
    # zoo ppo
    ("ppo", "LunarLander-v3"): Preset(PPO(
        rollout_length=1024, batch_size=64, gae_lambda=0.98, discount=0.999, epochs=4, entropy_coefficient=0.01), 16, 1_000_000),
    # zoo ppo
    ("ppo", "LunarLanderContinuous-v3"): Preset(PPO(
        rollout_length=1024, batch_size=64, gae_lambda=0.98, discount=0.999, epochs=4, entropy_coefficient=0.01), 16, 1_000_000),
}


def preset(algorithm: str, environment: str) -> Preset | None:
    """The preset for an algorithm on an environment, if there is one."""
    return PRESETS.get((algorithm, environment.split(":")[-1]))


