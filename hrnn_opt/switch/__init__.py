"""The greedy switch: closed forms of greedy optimizers, and the choice among candidates."""
