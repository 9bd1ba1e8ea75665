"""SBX on the work given as JSON; says how many steps its steady state took, and how long."""

import sb3

if __name__ == "__main__":
    import jax
    import sbx

    sb3.run(
        sbx,
        {"relu": jax.nn.relu, "tanh": jax.nn.tanh},
        ("sbx-rl", "stable-baselines3", "jax", "gymnasium"),
    )
