"""Print the FLOPs and bytes of a compiled training iteration, as counted by XLA.

    python tools/program_cost.py            # dqn, ppo and sac on their JAX environments

Hyperparameters are the defaults. Compare the numbers of two trees on one machine: a change without
cost increases none of them.
"""

from functools import partial

import jax
import jax.numpy as jnp

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
from etude.environments import make
from etude.training import init_train_state, train_iteration

WORKLOADS = {
    "dqn": (DQN(), "CartPole-v1"),
    "ppo": (PPO(), "CartPole-v1"),
    "sac": (SAC(), "Pendulum-v1"),
}


def main() -> None:
    print(f"{'':6}{'FLOPs':>16}{'bytes accessed':>18}{'temporary bytes':>18}")
    for name, (algorithm, environment_id) in WORKLOADS.items():
        environment = make(environment_id, algorithm.default_num_envs, "jax")
        key = jax.random.key(0)
        state = init_train_state(algorithm, environment, key)
        program = jax.jit(partial(train_iteration, algorithm, environment), donate_argnums=0)
        compiled = program.lower(state, key, jnp.int32(0)).compile()
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        flops, accessed = cost["flops"], cost["bytes accessed"]
        print(f"{name:6}{flops:16,.0f}{accessed:18,.0f}{memory.temp_size_in_bytes:18,}")


if __name__ == "__main__":
    main()
