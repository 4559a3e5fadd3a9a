"""Files that others wrote: what they hold is told by their content, and nothing in them is run."""

import io
import json
import os
import pathlib
import pickle
import struct

import keras
import numpy as np
import pytest
import safetensors.numpy
from keras import ops

from hrnn_opt import LearnedOpt, Pretrained
from hrnn_opt.files import foreign, msgpack
from hrnn_opt.files.resolve import resolve
from hrnn_opt.networks.released import GROUPS

DATA = pathlib.Path(__file__).parents[1] / "data"
RNG = np.random.default_rng(0)


# Flax's format, written here from its description.

def packed(value) -> bytes:
    """The value in MessagePack as Flax packs it."""
    if isinstance(value, np.ndarray):
        inner = packed([list(value.shape), value.dtype.name, value.tobytes()])
        return b"\xc9" + struct.pack(">IB", len(inner), 1) + inner
    if isinstance(value, dict):
        items = b"".join(packed(key) + packed(item) for key, item in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + items
    if isinstance(value, (list, tuple)):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return b"\xd9" + struct.pack(">B", len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    raise TypeError(type(value))


def nested(arrays) -> dict:
    """Arrays by their joined keys as the nested maps of the release ("rnn/linear" is one key)."""
    tree: dict = {}
    for name, array in arrays.items():
        *path, last = name.replace("rnn/linear", "rnn|linear").split("/")
        inner = tree
        for key in path:
            inner = inner.setdefault(key.replace("|", "/"), {})
        inner[last] = array
    return tree


def draw(*shape) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


def bank(*leading, units=4, layers=2) -> dict[str, np.ndarray]:
    sizes = [*[units] * layers, 3]
    return {
        **{f"ff_mod_stack/~/w0__{i}": draw(*leading, n, units) for i, n in enumerate(GROUPS)},
        **{f"ff_mod_stack/~/w{i}": draw(*leading, units, n) for i, n in enumerate(sizes) if i},
        **{f"ff_mod_stack/~/b{i}": draw(*leading, n) for i, n in enumerate(sizes)}}


def lstm(inputs, units, heads) -> dict[str, np.ndarray]:
    layers = {"linear": (inputs, units), "linear_1": (inputs, units), "linear_2": (inputs, units),
              "rnn/linear": (2 * units, 4 * units), "step_size": (units, 1),
              "rnn_to_controls": (units, heads)}
    found = {f"lstm_init_state/{name}": draw(1, units) for name in ("hidden", "cell")}
    for name, shape in layers.items():
        found |= {f"rnn_params/{name}/w": draw(*shape), f"rnn_params/{name}/b": draw(shape[1])}
    return found


SMALL_FC = {
    "momentum_decays": draw(3), "rms_decays": draw(1), "adafactor_decays": draw(3),
    "nn/~/w0": draw(39, 4), "nn/~/b0": draw(4), "nn/~/w1": draw(4, 2), "nn/~/b1": draw(2)}
VELO = {**lstm(30, 6, 5), **bank(5)}
CELO = {**lstm(18, 6, 1), **bank(1)}
CELO2 = bank(units=8)
ALL = {"small_fc": SMALL_FC, "velo": VELO, "celo": CELO, "celo2": CELO2}


@pytest.mark.parametrize("kind", ALL)
def test_flax_files_are_read(kind, tmp_path):
    path = tmp_path / "theta.state"
    path.write_bytes(packed(nested(ALL[kind])))
    expected = foreign.from_pytree(ALL[kind])
    assert expected.config.kind == kind
    for given in (path, tmp_path):
        read = resolve(str(given))
        assert read.config == expected.config
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(read.arrays[name], array)
    optimizer = LearnedOpt(str(path))
    assert float(ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(
        1e-3 if kind == "celo2" else 1.0)


def test_what_flax_itself_wrote_is_read():
    read = resolve(str(DATA / "flax_small_fc.state"))
    assert read.config.kind == "small_fc"
    # By `record_flax.py`: counted from the layer's number in steps of 1 / 1024.
    for name, start, shape in (("kernel_0", 0, (39, 4)), ("bias_0", 1, (4,)),
                               ("kernel_1", 2, (4, 2)), ("bias_1", 3, (2,))):
        np.testing.assert_array_equal(
            read.arrays[name], start + np.arange(np.prod(shape)).reshape(shape) / 1024)
    read = resolve(str(DATA / "flax_celo.state"))
    assert (read.config.kind, read.config.core.direction) == ("celo", "adam")
    np.testing.assert_array_equal(read.arrays["start_cell"], 1 + np.arange(4) / 1024)
    np.testing.assert_array_equal(
        read.arrays["lstm_kernel"], 3 + np.arange(128).reshape(8, 16) / 1024)


def test_every_number_is_in_its_place():
    weights = foreign.from_pytree(VELO)
    np.testing.assert_array_equal(weights.arrays["kernel_0"][:, 2:3], VELO["ff_mod_stack/~/w0__2"])
    np.testing.assert_array_equal(
        weights.arrays["kernel_0"][:, 18:21], VELO["ff_mod_stack/~/w0__10"])
    np.testing.assert_array_equal(weights.arrays["start_cell"], VELO["lstm_init_state/cell"][0])
    np.testing.assert_array_equal(weights.arrays["lstm_kernel"], VELO["rnn_params/rnn/linear/w"])


def test_googles_files_are_read_with_their_flags(tmp_path):
    (tmp_path / "params").write_bytes(packed(
        {"params": nested(VELO), "gen_id": "abc", "step": 7}))
    assert resolve(str(tmp_path)).config.core.flawed_losses is False
    for line, flawed in (("HyperV2.use_bugged_loss_features = False", False),
                         ("HyperV2.param_inits = 5", True)):
        (tmp_path / "config.gin").write_text(f"# comment\n{line}\n")
        assert resolve(str(tmp_path)).config.core.flawed_losses is flawed
    (tmp_path / "config.gin").write_text("HyperV2.use_bugged_next_lstm_state = True\n")
    with pytest.raises(ValueError, match="use_bugged_next_lstm_state"):
        resolve(str(tmp_path))


def test_older_files_of_flax_are_read(tmp_path):
    tree = nested(VELO)
    state = tree.pop("lstm_init_state")
    tree["lstm_init_state"] = {
        "name": "LSTMState", "fields": {"0": "hidden", "1": "cell"},
        "values": {"0": state["hidden"], "1": state["cell"]}}
    (tmp_path / "theta.state").write_bytes(packed({"0": tree, "1": "x", "2": 3}))
    read = resolve(str(tmp_path / "theta.state"))
    np.testing.assert_array_equal(
        read.arrays["start_cell"], foreign.from_pytree(VELO).arrays["start_cell"])


# PyLO's networks.

def pylo(kind) -> list[dict[str, np.ndarray]]:
    def swapped(x):
        return np.ascontiguousarray(np.swapaxes(x, -2, -1))

    if kind == "small_fc":
        return [{"network.input.weight": swapped(SMALL_FC["nn/~/w0"]),
                 "network.input.bias": SMALL_FC["nn/~/b0"],
                 "network.output.weight": swapped(SMALL_FC["nn/~/w1"]),
                 "network.output.bias": SMALL_FC["nn/~/b1"]}]
    nets = {name.removeprefix("ff_mod_stack/~/"): x for name, x in ALL[kind].items()}
    if kind == "celo2":
        return [{**{f"w0.{i}": nets[f"w0__{i}"] for i in range(14)}, "b0": nets["b0"],
                 **{f"dense_{x}.{i}": nets[f"{x}{i + 1}"] for x in "wb" for i in range(2)}}]
    rnn = {"mix_layer1": "linear", "mix_layer2": "linear_1", "final_mix_layer": "linear_2",
           "lstm.linear": "rnn/linear", "rnn_to_controls": "rnn_to_controls",
           "step_size": "step_size"}
    first = {"lstm_init_state.0": VELO["lstm_init_state/hidden"],
             "lstm_init_state.1": VELO["lstm_init_state/cell"]}
    for theirs, name in rnn.items():
        first[f"{theirs}.weight"] = swapped(VELO[f"rnn_params/{name}/w"])
        first[f"{theirs}.bias"] = VELO[f"rnn_params/{name}/b"]
    joined = np.concatenate([nets[f"w0__{i}"] for i in range(14)], axis=-2)
    return [first, {
        "input_weights_": swapped(joined), "input_bias_": nets["b0"],
        "hidden_weights_.0": swapped(nets["w1"]), "hidden_bias_.0": nets["b1"],
        "output_weights_": swapped(nets["w2"]), "output_bias_": nets["b2"],
        # Scratch of its program.
        "input_weights": draw(2, 2), "hidden_bias.0": draw(3)}]


@pytest.mark.parametrize("kind", ["small_fc", "celo2", "velo"])
def test_pylos_files_are_read(kind):
    read = foreign._from_content(
        [safetensors.numpy.save(arrays) for arrays in pylo(kind)], "here", foreign._Known())
    expected = foreign.from_pytree(ALL[kind])
    assert read.config == expected.config
    for name, array in expected.arrays.items():
        if not name.endswith("_decays") and not name.endswith("_decay"):
            np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyLO's networks are PyTorch's")
@pytest.mark.parametrize("kind", ["small_fc", "celo2", "velo"])
def test_what_the_hubs_own_writer_saved_is_read(kind, tmp_path):
    import torch
    from huggingface_hub import PyTorchModelHubMixin

    class Network(torch.nn.Module, PyTorchModelHubMixin):
        def __init__(self, hidden_size: int = 4) -> None:
            super().__init__()

    contents = []
    for i, arrays in enumerate(pylo(kind)):
        network = Network()
        for name, array in arrays.items():
            # A name with points is of a module in a module.
            *path, last = name.split(".")
            inner = network
            for key in path:
                if not hasattr(inner, key):
                    inner.add_module(key, torch.nn.Module())
                inner = getattr(inner, key)
            inner.register_parameter(last, torch.nn.Parameter(torch.tensor(array)))
        network.save_pretrained(tmp_path / str(i))
        contents.append((tmp_path / str(i) / "model.safetensors").read_bytes())
    read = foreign._from_content(contents, "here", foreign._Known())
    expected = foreign._from_content(
        [safetensors.numpy.save(arrays) for arrays in pylo(kind)], "here", foreign._Known())
    assert read.config == expected.config and read.config.kind == kind
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)


def test_what_files_of_known_names_lack_is_known():
    files = [safetensors.numpy.save(arrays) for arrays in pylo("small_fc")]
    mulo = foreign._from_content(files, "x", foreign._KNOWN["btherien/mulo"])
    assert [rule.NAME for rule in mulo.config.rules] == ["mu"]
    np.testing.assert_allclose(
        mulo.arrays["momentum_decays"], [0.15216392, 0.14245212, 0.06812963])
    elo = foreign._from_content(files, "x", foreign._KNOWN["DiamondXL/elo"])
    assert (elo.config.core.step_multiplier, elo.learning_rate) == (1.0, 1e-3)
    base = foreign._from_content(
        [packed(nested(CELO2))], "x", foreign._KNOWN["amoudgl/celo2-base"]).config.core
    assert (base.orthogonalize, base.adam_vectors) == (False, False)


def test_names_on_the_hub(monkeypatch, tmp_path):
    files = {
        "me/mulo": {"config.json": json.dumps(
            {"hidden_layers": 0, "hidden_size": 4, "input_size": 39}),
            "model.safetensors": safetensors.numpy.save(pylo("small_fc")[0])},
        "amoudgl/celo2": {"config.json": json.dumps({"optimizer": "celo2"}),
                          "theta.state": packed(nested(CELO2))},
        "me/VeLO_RNN": {"config.json": json.dumps({"lstm_hidden_size": 6}),
                        "model.safetensors": safetensors.numpy.save(pylo("velo")[0])},
        "me/VeLO_MLP": {"config.json": json.dumps({"param_inits": 5}),
                        "model.safetensors": safetensors.numpy.save(pylo("velo")[1])}}

    def download(name, file, most):
        folder = tmp_path / name.partition("@")[0].replace("/", "-") / "commit"
        folder.mkdir(parents=True, exist_ok=True)
        content = files[name.partition("@")[0]][file]
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / file

    monkeypatch.setattr(foreign.hub, "download", download)
    kinds = {name: resolve(name).config.kind for name in files}
    assert kinds == {"me/mulo": "small_fc", "amoudgl/celo2": "celo2", "me/VeLO_RNN": "velo",
                     "me/VeLO_MLP": "velo"}
    assert LearnedOpt("amoudgl/celo2").network_config.kind == "celo2"


def test_arrays_by_their_authors_names_are_converted(tmp_path):
    np.savez(tmp_path / "theirs.npz", **SMALL_FC)
    assert foreign.read_released(tmp_path / "theirs.npz").config.kind == "small_fc"
    np.savez(tmp_path / "theirs.npz", **pylo("celo2")[0])
    for read in (foreign.read_released, resolve):
        assert read(tmp_path / "theirs.npz").config.kind == "celo2"


# What is not read.

class Trap:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("executed"),))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_never_run(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theta.state"
    path.write_bytes(pickle.dumps(Trap(), protocol))
    with pytest.raises(ValueError, match=r"pickle.*python -m eval convert"):
        LearnedOpt(str(path))
    archive = io.BytesIO()
    np.savez(archive, a=np.array([Trap()], dtype=object))
    path.write_bytes(archive.getvalue())
    with pytest.raises(ValueError, match=r"without pickles.*python -m eval convert"):
        LearnedOpt(str(path))
    assert not (tmp_path / "executed").exists()


WHOLE = packed(nested(SMALL_FC))


@pytest.mark.parametrize("content, message", [
    (WHOLE[:-3], "it ends early"),
    (WHOLE + b"\0", "it goes on behind its end"),
    (b"\xdf\xff\xff\xff\xff", "it ends early"),
    (b"\x81\xa1a" * 50 + b"\x80", "items, 16 deep"),
    (packed({"a": np.zeros(3, "complex64")}), "of the type 'complex64'"),
    (b"\x81\xa1a" + b"\xc9" + struct.pack(">IB", 1, 9) + b"\0", "extension of the unknown type 9"),
    (b"\x82\xa1a\x01\xa1a\x02", "texts that differ"),
    (packed({"nn": {"~": {"w0": draw(39, 4)}}}), "missing or unknown"),
    (packed({"other": draw(3)}), "must be those of a learned optimizer that is known"),
    (packed(nested({**SMALL_FC, "nn/~/b0": np.full(4, np.nan, "float32")})), "finite"),
    (packed(nested({**SMALL_FC, "nn/~/w1": draw(3, 2)})), "must be float32 of shape"),
    (b"nonsense that is longer than eight bytes", "not a safetensors file"),
], ids=range(12))
def test_damaged_files_are_refused(content, message, tmp_path):
    path = tmp_path / "theta.state"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        LearnedOpt(str(path))


def test_a_size_that_is_only_claimed_takes_no_memory():
    inner = packed([[2**30, 2**30], "float32", b""])
    content = b"\x81\xa1a\xc9" + struct.pack(">IB", len(inner), 1) + inner
    with pytest.raises(ValueError, match="must have"):
        msgpack.load(content)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_numbers_of_every_type_are_read(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.testing.assert_array_equal(msgpack.load(packed({"a": array}))["a"], array)
    wide = np.array([1.0, -2.5], "float32")
    narrow = (wide.view("uint32") >> 16).astype("<u2").tobytes()
    inner = packed([[2], "bfloat16", narrow])
    found = msgpack.load(b"\x81\xa1a\xc9" + struct.pack(">IB", len(inner), 1) + inner)
    np.testing.assert_array_equal(found["a"], wide)


# Real ones, where somebody has them.

@pytest.mark.skipif("CELO_WEIGHTS" not in os.environ, reason="no folder of weights in CELO_WEIGHTS")
@pytest.mark.parametrize("name, direction", [("celo", "network"), ("celo_adam", "adam")])
def test_celos_own_weights_are_read(name, direction, tmp_path):
    weights = resolve(str(pathlib.Path(os.environ["CELO_WEIGHTS"]) / f"{name}.npz"))
    assert (weights.config.kind, weights.config.core.direction) == ("celo", direction)
    weights.save(tmp_path / "w.safetensors")
    assert Pretrained.load(tmp_path / "w.safetensors").config == weights.config
