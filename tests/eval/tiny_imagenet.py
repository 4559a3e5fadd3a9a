"""`python tiny_imagenet.py FLAGS`: `python -m eval imagenet FLAGS` with `tiny_network` as its small
one, for tests that start processes. `FLAGS then MORE` goes on with `FLAGS MORE` in the same
process: to start one takes longer than to train."""

import pathlib
import sys

import keras


def tiny_network(x, classes):
    x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.Dense(classes)(keras.layers.Flatten()(x))


if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).parents[2])
    from eval.__main__ import main
    from eval.imagenet import devices, image_models

    image_models._resnetv2_small = tiny_network
    flags, more = sys.argv[1:], []
    if "then" in flags:
        then = flags.index("then")
        flags, more = flags[:then], flags[then + 1:]
    code = main(["imagenet", *flags])
    if more and not code:
        if keras.backend.backend() == "jax":
            import jax
            from jax.experimental import multihost_utils

            # The others are joined, and what one of them writes is there.
            devices.use_hosts = lambda *hosts: None
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("then")
        code = main(["imagenet", *flags, *more])
    sys.exit(code)
