"""Presets of trust-region methods.

The Stable-Baselines3 defaults for PPO are a learning rate of 3e-4, λ = 0.95, 10 epochs, batches of
64, no entropy bonus and gradients clipped at 0.5. Those of sb3-contrib (0ca7fdd) for TRPO are a KL
limit of 0.01, 15 conjugate gradient steps with damping 0.1, a line search of 10 steps that shrink
by 0.8, a value network of learning rate 1e-3 fitted in 10 epochs with batches of 128, and λ = 0.95.
State-dependent noise is drawn once per rollout.
"""

import math

from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.trust_region.trpo import TRPO, NaturalGradient
from etude.estimators.running_statistics import Normalization
from etude.nn.recurrent import GRU
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # zoo ppo: learning rate and clip fall linearly to zero over the budget
    ("ppo", "CartPole-v1"): Preset(
        PPO(
            learning_rate=1e-3,
            learning_rate_decay=100_000.0,
            clip_decay=100_000.0,
            rollout_length=32,
            batch_size=256,
            gae_lambda=0.8,
            discount=0.98,
            epochs=20,
        ),
        8,
        100_000,
    ),
    # zoo ppo
    ("ppo", "Acrobot-v1"): Preset(
        PPO(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=256,
            batch_size=64,
            gae_lambda=0.94,
            epochs=4,
        ),
        16,
        1_000_000,
    ),
    # zoo ppo
    ("ppo", "MountainCar-v0"): Preset(
        PPO(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=16,
            batch_size=64,
            gae_lambda=0.98,
            epochs=4,
        ),
        16,
        1_000_000,
    ),
    # zoo ppo, but for its rollouts of 8 steps in one environment and its budget of 20,000 steps,
    # which rarely reach the goal here, and for orthogonal initial weights, which are off there
    ("ppo", "MountainCarContinuous-v0"): Preset(
        PPO(
            learning_rate=7.77e-5,
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=256,
            batch_size=256,
            discount=0.9999,
            entropy_coefficient=0.00429,
            clip=0.1,
            epochs=10,
            gae_lambda=0.9,
            max_gradient_norm=5.0,
            value_coefficient=0.19,
            state_noise=True,
            initial_std=math.exp(-3.29),
        ),
        8,
        100_000,
    ),
    # zoo ppo, with plain noise in place of state-dependent exploration
    ("ppo", "Pendulum-v1"): Preset(
        PPO(learning_rate=1e-3, rollout_length=1024, batch_size=64, discount=0.9, epochs=10),
        4,
        100_000,
    ),
    # zoo ppo
    ("ppo", "LunarLander-v3"): Preset(
        PPO(
            rollout_length=1024,
            batch_size=64,
            gae_lambda=0.98,
            discount=0.999,
            epochs=4,
            entropy_coefficient=0.01,
        ),
        16,
        1_000_000,
    ),
    # zoo ppo
    ("ppo", "LunarLanderContinuous-v3"): Preset(
        PPO(
            rollout_length=1024,
            batch_size=64,
            gae_lambda=0.98,
            discount=0.999,
            epochs=4,
            entropy_coefficient=0.01,
        ),
        16,
        1_000_000,
    ),
    # zoo ppo
    ("ppo", "BipedalWalker-v3"): Preset(
        PPO(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=2048,
            batch_size=64,
            gae_lambda=0.95,
            discount=0.999,
            epochs=10,
            learning_rate=3e-4,
            clip=0.18,
        ),
        32,
        5_000_000,
    ),
    # CleanRL's ppo_continuous_action at 016ca33, but for three settings: 8 environments of 256
    # steps in place of one of 2,048, no clip of the value in place of 0.2, and twice the weight of
    # the value, whose loss has a ½ there
    **{
        ("ppo", environment): Preset(
            PPO(
                learning_rate=3e-4,
                learning_rate_decay=1_000_000.0,
                normalize_observation=Normalization(),
                normalize_reward=Normalization(),
                rollout_length=256,
                batch_size=64,
                epochs=10,
            ),
            8,
            1_000_000,
        )
        for environment in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "InvertedPendulum-v5")
    },
    # a recurrent policy in place of the velocities
    ("ppo", "etude/CartPoleWithoutVelocity-v1"): Preset(
        PPO(
            learning_rate=1e-3,
            learning_rate_decay=300_000.0,
            rollout_length=128,
            batch_size=256,
            sequence_length=32,
            gae_lambda=0.9,
            discount=0.98,
            epochs=10,
            recurrent=GRU(64),
        ),
        8,
        300_000,
    ),
    # zoo trpo
    ("trpo", "CartPole-v1"): Preset(
        TRPO(rollout_length=512, batch_size=512, damping=1e-3, gae_lambda=0.98, value_epochs=20),
        2,
        100_000,
    ),
    # zoo trpo
    ("trpo", "Acrobot-v1"): Preset(
        TRPO(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=1024,
        ),
        2,
        100_000,
    ),
    # zoo trpo
    ("trpo", "MountainCar-v0"): Preset(
        TRPO(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=1024,
            value_epochs=20,
        ),
        2,
        100_000,
    ),
    # zoo trpo
    ("trpo", "MountainCarContinuous-v0"): Preset(
        TRPO(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=2048,
            state_noise=True,
            noise_interval=4,
        ),
        2,
        50_000,
    ),
    # zoo trpo
    ("trpo", "Pendulum-v1"): Preset(
        TRPO(
            rollout_length=1024, discount=0.9, value_epochs=15, state_noise=True, noise_interval=4
        ),
        2,
        100_000,
    ),
    # zoo trpo
    ("trpo", "LunarLander-v3"): Preset(
        TRPO(rollout_length=512, damping=0.01, gae_lambda=0.98, value_epochs=15), 2, 200_000
    ),
    # zoo trpo with twice its steps, to which its published score belongs
    ("trpo", "LunarLanderContinuous-v3"): Preset(
        TRPO(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=1024,
            value_epochs=20,
        ),
        2,
        200_000,
    ),
    # zoo trpo
    **{
        ("trpo", environment): Preset(
            TRPO(
                normalize_observation=Normalization(),
                normalize_reward=Normalization(),
                rollout_length=1024,
                conjugate_steps=25,
                value_epochs=20,
                kl_limit=kl_limit,
            ),
            2,
            1_000_000,
        )
        for environment, kl_limit in (
            ("BipedalWalker-v3", 0.01),
            ("HalfCheetah-v5", 0.04),
            ("Hopper-v5", 0.01),
            ("Walker2d-v5", 0.01),
        )
    },
    # zoo trpo for CartPole, without the line search
    ("natural-gradient", "CartPole-v1"): Preset(
        NaturalGradient(
            rollout_length=512, batch_size=512, damping=1e-3, gae_lambda=0.98, value_epochs=20
        ),
        2,
        100_000,
    ),
    # Tianshou's batch of 1,024 steps of 16 environments and its 20 epochs of the value
    ("natural-gradient", "InvertedPendulum-v5"): Preset(
        NaturalGradient(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=512,
            value_epochs=20,
        ),
        4,
        1_000_000,
    ),
}
