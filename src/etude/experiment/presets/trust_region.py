"""Presets of trust-region methods.

The Stable-Baselines3 defaults for PPO are a learning rate of 3e-4, λ .95, 10 epochs, batches of 64, no entropy bonus and
gradients clipped at .5.
"""
from etude.algorithms.trust_region.ppo import PPO
from etude.experiment.presets.preset import Preset, Presets

PRESETS: Presets = {
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
