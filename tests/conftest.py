"""What tests compile runs for a moment, so it is compiled quickly and not well: in less than half the time."""
import os

QUICKLY = ("--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
           "--xla_cpu_parallel_codegen_split_count=1")

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}".strip()       # before JAX starts
