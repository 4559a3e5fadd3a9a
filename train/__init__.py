"""Meta-training. Written in JAX: importing it chooses Keras's JAX backend.

Raises:
    ImportError: if Keras runs on another backend already.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

if keras.backend.backend() != "jax":
    raise ImportError(
        "`train` needs Keras's JAX backend (KERAS_BACKEND=jax), got "
        f"{keras.backend.backend()!r}.")
