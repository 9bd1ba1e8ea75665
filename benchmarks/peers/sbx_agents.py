"""Train SBX on a workload given as JSON; print steps and seconds of steady state."""

import sb3

if __name__ == "__main__":
    import jax
    import sbx

    sb3.run(
        sbx,
        {"relu": jax.nn.relu, "tanh": jax.nn.tanh},
        ("sbx-rl", "stable-baselines3", "jax", "gymnasium"),
    )
