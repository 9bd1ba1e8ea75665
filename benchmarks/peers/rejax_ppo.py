"""rejax's PPO on the work given as JSON; says how many steps its training took, and how long."""

import json
import sys
import time
from importlib.metadata import version

import jax
from rejax import PPO

work = json.loads(sys.argv[1])
hyper = work["hyperparameters"]
samples = hyper["rollout_length"] * work["num_envs"]
steps = work["steps"] // samples * samples
algorithm = PPO.create(
    env=work["environment"],
    agent_kwargs={"hidden_layer_sizes": hyper["hidden"], "activation": hyper["activation"]},
    num_envs=work["num_envs"],
    num_steps=hyper["rollout_length"],
    num_minibatches=samples // hyper["batch_size"],
    num_epochs=hyper["epochs"],
    learning_rate=hyper["learning_rate"],
    gamma=hyper["discount"],
    gae_lambda=hyper["gae_lambda"],
    clip_eps=hyper["clip"],
    vf_coef=hyper["value_coefficient"],
    ent_coef=hyper["entropy_coefficient"],
    max_grad_norm=hyper["max_gradient_norm"],
    total_timesteps=steps,
    eval_freq=steps,
    skip_initial_evaluation=True,
)
# the one evaluation left, at the end, does nothing
algorithm = algorithm.replace(eval_callback=lambda *_: ())

clock = time.perf_counter()
train = jax.jit(PPO.train).lower(algorithm, jax.random.PRNGKey(work["seed"])).compile()
compiled = time.perf_counter()
state, _ = jax.block_until_ready(train(algorithm, jax.random.PRNGKey(work["seed"])))
seconds = time.perf_counter() - compiled
if int(state.global_step) != steps:
    sys.exit(f"rejax took {state.global_step} steps where {steps} were asked for")
print(
    json.dumps(
        {
            "steps": steps,
            "seconds": seconds,
            "compile_seconds": compiled - clock,
            "versions": {name: version(name) for name in ("rejax", "gymnax", "jax")},
        }
    )
)
