"""`python tiny_imagenet.py FLAGS`: `python -m eval imagenet FLAGS` with `tiny_network` as its small
one, for tests that start processes."""

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
    from eval.imagenet import image_models

    image_models._resnetv2_small = tiny_network
    sys.exit(main(["imagenet", *sys.argv[1:]]))
