"""A model that was saved on one backend trains on as there on every other one."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.data.record_models import BATCHES, FOLDER, MORE, OPTIMIZERS, flat, train_on, trained

BACKENDS = ("jax", "tensorflow", "torch")
# Of the largest distance that a weight goes, and of the largest number of each variable. They
# were 5e-6, and 7e-4 in the hidden state of a recurrent network.
WEIGHTS, STATE = 5e-5, 2e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_file_trains_on_as_where_it_was_saved(name):
    """Files were saved on each backend by `tests/data/record_models.py`. That files are still
    written so is what comparing them with a model trained here is for."""
    here = trained(name)
    ours = [*here.weights, *here.optimizer.variables]
    state = [flat([variable]) for variable in here.optimizer.variables]
    for backend in BACKENDS:
        loaded = keras.saving.load_model(FOLDER / f"{backend}_{name}.keras")
        theirs = loaded.optimizer.variables
        assert len(theirs) == len(state)
        for value, variable in zip(state, theirs):
            expected = flat([variable])
            size = np.abs(expected).max(initial=0)
            np.testing.assert_allclose(value, expected, rtol=0, atol=STATE * size)
        # Trained on in the model that is compiled already.
        for variable, value in zip(ours, [*loaded.weights, *theirs]):
            variable.assign(ops.convert_to_tensor(value))
        before = flat(here.weights)
        train_on(here, range(BATCHES, BATCHES + MORE))
        with np.load(FOLDER / f"{backend}_after.npz") as file:
            after = file[name]
        gone = np.abs(after - before).max()
        np.testing.assert_allclose(flat(here.weights), after, rtol=0, atol=WEIGHTS * gone)
