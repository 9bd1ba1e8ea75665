"""Presets of actor-critic methods.

The Stable-Baselines3 defaults for SAC are a learning rate of 3e-4, batches of 256, 100 steps of
warm-up, target rate 0.005, a learned temperature that starts at 1, and two layers of 256. Those for
A2C are a learning rate of 7e-4 for RMSprop, rollouts of 5 steps, λ = 1, no entropy bonus and
gradients clipped at 0.5; its state-dependent noise is drawn once per rollout.
"""

import math

from etude.algorithms.actor_critic.actor_critic import A2C, ActorCritic
from etude.algorithms.actor_critic.sac import SAC, OffPolicyActorCritic
from etude.data.replay.hindsight import Hindsight
from etude.estimators.running_statistics import Normalization
from etude.nn.recurrent import GRU
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # zoo sac
    ("sac", "Pendulum-v1"): Preset(SAC(learning_rate=1e-3), 1, 20_000),
    # zoo sac's learning rate
    ("off-policy-actor-critic", "Pendulum-v1"): Preset(
        OffPolicyActorCritic(learning_rate=1e-3), 1, 20_000
    ),
    # zoo sac, with noise per rollout in place of state-dependent exploration, whose initial
    # standard deviation is exp(-3.67) there, and with the whole rollouts in its capacity of 50,000
    ("sac", "MountainCarContinuous-v0"): Preset(
        SAC(
            capacity=49_984,
            batch_size=512,
            initial_temperature=0.1,
            learn_temperature=False,
            rollout_length=32,
            gradient_steps=32,
            discount=0.9999,
            target_rate=0.01,
            warmup_steps=0,
            hidden=(64, 64),
            noise_per_rollout=True,
        ),
        1,
        50_000,
    ),
    # zoo sac; its capacity of 1,000,000 is more than its steps
    ("sac", "LunarLanderContinuous-v3"): Preset(
        SAC(
            learning_rate=7.3e-4,
            learning_rate_decay=500_000.0,
            capacity=500_000,
            target_rate=0.01,
            warmup_steps=10_000,
            hidden=(400, 300),
        ),
        1,
        500_000,
    ),
    # zoo sac, with plain noise in place of state-dependent exploration, and with the whole rollouts
    # in its capacity of 300,000
    ("sac", "BipedalWalker-v3"): Preset(
        SAC(
            learning_rate=7.3e-4,
            capacity=299_968,
            discount=0.98,
            target_rate=0.02,
            rollout_length=64,
            gradient_steps=64,
            warmup_steps=10_000,
            hidden=(400, 300),
        ),
        1,
        500_000,
    ),
    # a memory in place of the velocity; tuned here
    ("sac", "etude/PendulumWithoutVelocity-v1"): Preset(
        SAC(learning_rate=1e-3, recurrent=GRU(64), hidden=(64, 64), rollout_length=2), 1, 20_000
    ),
    # a first goal task, with hindsight; sizes that learn it in seconds
    **{
        ("sac", environment): Preset(SAC(hindsight=Hindsight(), hidden=(64, 64)), 1, 10_000)
        for environment in ("etude/PointRoom-v0", "etude/PointRoomContinuous-v0")
    },
    # zoo sac, at Spinning Up's learning rate
    ("sac", "HalfCheetah-v5"): Preset(
        SAC(learning_rate=1e-3, capacity=1_000_000, warmup_steps=10_000), 1, 1_000_000
    ),
    # zoo sac
    ("sac", "Hopper-v5"): Preset(SAC(capacity=1_000_000, warmup_steps=10_000), 1, 1_000_000),
    ("sac", "InvertedPendulum-v5"): Preset(SAC(), 1, 50_000),
    # zoo a2c
    ("a2c", "CartPole-v1"): Preset(A2C(), 8, 500_000),
    # zoo a2c
    ("a2c", "Acrobot-v1"): Preset(
        A2C(normalize_observation=Normalization(), normalize_reward=Normalization()), 16, 500_000
    ),
    # zoo a2c
    ("a2c", "MountainCar-v0"): Preset(
        A2C(normalize_observation=Normalization(), normalize_reward=Normalization()), 16, 1_000_000
    ),
    # zoo a2c
    ("a2c", "LunarLander-v3"): Preset(
        A2C(
            discount=0.995,
            learning_rate=8.3e-4,
            learning_rate_decay=200_000.0,
            entropy_coefficient=1e-5,
        ),
        8,
        200_000,
    ),
    # zoo a2c, but for orthogonal initial weights, which are off there
    ("a2c", "MountainCarContinuous-v0"): Preset(
        A2C(
            normalize_observation=Normalization(),
            normalize_reward=Normalization(),
            rollout_length=100,
            state_noise=True,
            noise_interval=16,
        ),
        4,
        100_000,
    ),
    # zoo a2c, but for orthogonal initial weights, which are off there
    **{
        ("a2c", environment): Preset(
            A2C(
                normalize_observation=Normalization(),
                normalize_reward=Normalization(),
                rollout_length=8,
                gae_lambda=0.9,
                value_coefficient=0.4,
                discount=discount,
                learning_rate=learning_rate,
                learning_rate_decay=float(steps),
                state_noise=True,
                noise_interval=8,
                initial_std=math.exp(-2),
            ),
            num_envs,
            steps,
        )
        for environment, discount, learning_rate, num_envs, steps in (
            ("Pendulum-v1", 0.9, 7e-4, 8, 1_000_000),
            ("BipedalWalker-v3", 0.99, 9.6e-4, 16, 5_000_000),
            ("LunarLanderContinuous-v3", 0.99, 7e-4, 4, 5_000_000),
        )
    },
    # zoo a2c for the MuJoCo environments
    **{
        ("a2c", environment): Preset(
            A2C(normalize_observation=Normalization(), normalize_reward=Normalization()),
            8,
            1_000_000,
        )
        for environment in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "InvertedPendulum-v5")
    },
    # batches of 5,000 steps, and 10 value targets with 10 gradient steps each, as in CS 285; two of
    # five seeds forget what they had learned without learning rate decay
    ("actor-critic", "InvertedPendulum-v5"): Preset(
        ActorCritic(
            learning_rate=1e-2,
            learning_rate_decay=500_000.0,
            value_learning_rate=1e-2,
            gae_lambda=0.0,
            value_steps=100,
            value_coefficient=0.0,
            value_target="one_step",
            normalize_advantage=True,
            rollout_length=1_250,
        ),
        4,
        500_000,
    ),
    ("actor-critic", "CartPole-v1"): Preset(ActorCritic(normalize_advantage=True), 8, 200_000),
}
