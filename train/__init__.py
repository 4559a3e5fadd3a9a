"""Meta-training. Written in JAX: importing it chooses Keras's JAX backend, where none is chosen."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
