"""What moving statistics hide when a trained network is trained further: page 40.

`KERAS_BACKEND=jax python -m lab.programs.fine_tuning`: MobileNetV2 that has learned Latin letters
(`tuned_whole` of `eval/runs/practice.py`), all of it trained for 200 steps on Greek ones, seed 0:
loss and accuracy on letters of other fonts, with its statistics as they are and taken anew from
2,048 training examples.
"""

import keras

from eval.runs import networks, practice, runner
from hrnn_opt import LearnedOpt, refresh_statistics

BATCH = 64


def main() -> None:
    """Two lines for each optimizer."""
    task = practice.TASKS["tuned_whole"]
    data = task.data()
    optimizers = {"rule": LearnedOpt("rule", seed=0), "adam": keras.optimizers.Adam()}
    for name, optimizer in optimizers.items():
        model = networks.build(task.network, data.x_train.shape[1:], 29, seed=0)
        runner.train(model, optimizer, data, steps=task.steps, batch_size=BATCH, seed=0)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      metrics=["accuracy"])
        for way in ("as they are", "taken anew"):
            if way == "taken anew":
                refresh_statistics(model, data.x_train[:2048], BATCH)
            loss, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
            print(f"{name}, {way}: loss {loss:.3f}, accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
