"""Settings of the whole suite."""

import os
import signal

import jax

# Tests compile much and run little: without these passes the suite takes half as long.
FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])
# A location for each frame of each operation takes a tenth of the suite's time.
jax.config.update("jax_include_full_tracebacks_in_locations", False)

# Nothing is left in the user's cache; tests of the cache have one of their own.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
jax.config.update("jax_enable_compilation_cache", False)

# Two devices, of which all but the tests of several use the first.
jax.config.update("jax_num_cpu_devices", 2)

# A shell lets its background jobs ignore Ctrl-C, and they pass that on to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
