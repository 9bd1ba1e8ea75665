"""Train rejax's PPO on a workload given as JSON; print the steps and seconds of training."""

import json
import sys
import time
from importlib.metadata import version

import jax
from rejax import PPO

workload = json.loads(sys.argv[1])
hyperparameters = workload["hyperparameters"]
samples = hyperparameters["rollout_length"] * workload["num_envs"]
steps = workload["steps"] // samples * samples
algorithm = PPO.create(
    env=workload["environment"],
    agent_kwargs={
        "hidden_layer_sizes": hyperparameters["hidden"],
        "activation": hyperparameters["activation"],
    },
    num_envs=workload["num_envs"],
    num_steps=hyperparameters["rollout_length"],
    num_minibatches=samples // hyperparameters["batch_size"],
    num_epochs=hyperparameters["epochs"],
    learning_rate=hyperparameters["learning_rate"],
    gamma=hyperparameters["discount"],
    gae_lambda=hyperparameters["gae_lambda"],
    clip_eps=hyperparameters["clip"],
    vf_coef=hyperparameters["value_coefficient"],
    ent_coef=hyperparameters["entropy_coefficient"],
    max_grad_norm=hyperparameters["max_gradient_norm"],
    total_timesteps=steps,
    eval_freq=steps,
    skip_initial_evaluation=True,
)
# disable the evaluation at the end
algorithm = algorithm.replace(eval_callback=lambda *_: ())

start = time.perf_counter()
train = jax.jit(PPO.train).lower(algorithm, jax.random.PRNGKey(workload["seed"])).compile()
compile_end = time.perf_counter()
state, _ = jax.block_until_ready(train(algorithm, jax.random.PRNGKey(workload["seed"])))
seconds = time.perf_counter() - compile_end
if int(state.global_step) != steps:
    sys.exit(f"rejax took {state.global_step} steps where {steps} were asked for")
print(
    json.dumps(
        {
            "steps": steps,
            "seconds": seconds,
            "compile_seconds": compile_end - start,
            "versions": {name: version(name) for name in ("rejax", "gymnax", "jax")},
        }
    )
)
