"""Learned optimizers in Keras training: the optimizer, its callbacks, and what they log."""
