"""How XLA compiles quickly on a CPU. Tests run small programs a few times, so that compiling them
is most of the work; their numbers stay the same to rounding."""

# For the environment variable `XLA_FLAGS`. Not all are known to be there in other versions of XLA.
FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1")
# For `jax.jit` of what runs for longer than it compiles.
FOR_LONG_RUNS = {"xla_backend_optimization_level": 3}
