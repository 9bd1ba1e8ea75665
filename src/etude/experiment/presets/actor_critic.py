"""Presets of actor-critic methods.

The Stable-Baselines3 defaults for SAC are a learning rate of 3e-4, batches of 256, 100 steps of warm-up, target rate .005, a
learned temperature that starts at 1, and two layers of 256.
"""
from etude.algorithms.actor_critic.sac import SAC, OffPolicyActorCritic
from etude.experiment.presets.preset import Preset, Presets

PRESETS: Presets = {
    # zoo sac
    ("sac", "Pendulum-v1"): Preset(SAC(learning_rate=1e-3), 1, 20_000),
    # zoo sac's learning rate
    ("off-policy-actor-critic", "Pendulum-v1"): Preset(OffPolicyActorCritic(learning_rate=1e-3), 1, 20_000),
    # zoo sac, whose state-dependent exploration is a held noise here
    ("sac", "MountainCarContinuous-v0"): Preset(SAC(
        capacity=50_000, batch_size=512, initial_temperature=0.1, learn_temperature=False, rollout_length=32, gradient_steps=32,
        discount=0.9999, target_rate=0.01, warmup_steps=0, hidden=(64, 64), hold_noise=True),
        1, 50_000),
    # zoo sac
    ("sac", "LunarLanderContinuous-v3"): Preset(SAC(
        learning_rate=7.3e-4, learning_rate_decay=500_000.0, capacity=500_000, target_rate=0.01, warmup_steps=10_000,
        hidden=(400, 300)), 1, 500_000),
    # zoo sac, whose state-dependent exploration is plain noise here
    ("sac", "BipedalWalker-v3"): Preset(SAC(
        learning_rate=7.3e-4, capacity=300_000, discount=0.98, target_rate=0.02, rollout_length=64, gradient_steps=64,
        warmup_steps=10_000, hidden=(400, 300)), 1, 500_000),
    # zoo sac, at Spinning Up's learning rate
    ("sac", "HalfCheetah-v5"): Preset(SAC(learning_rate=1e-3, capacity=1_000_000, warmup_steps=10_000), 1, 1_000_000),
    # zoo sac
    ("sac", "Hopper-v5"): Preset(SAC(capacity=1_000_000, warmup_steps=10_000), 1, 1_000_000),
    ("sac", "InvertedPendulum-v5"): Preset(SAC(), 1, 50_000),
}
