import dataclasses
import json
import math

import pytest

from hrnn_opt import Field, HierarchicalRNN, HierarchicalRNNConfig, Layout

DEFAULT = HierarchicalRNNConfig()


def parameters(config: HierarchicalRNNConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(v.shape) for name, v in HierarchicalRNN(config).meta_parameters.items()}


def test_the_default_is_the_papers_network():
    assert DEFAULT.inputs == 12
    shapes = parameters(DEFAULT)
    # The GRUs go 22 -> 20 and 22 -> 10, 42 -> 40 and 42 -> 20, 40 -> 40 and 40 -> 20.
    assert shapes["parameter_rnn/gates_kernel"] == (22, 20)
    assert shapes["tensor_rnn/candidate_kernel"] == (42, 20)
    assert shapes["global_rnn/gates_kernel"] == (40, 40)
    cells = (22 + 1) * 30 + (42 + 1) * 60 + (40 + 1) * 60
    biases = (20 + 1) * 30 + (20 + 1) * 30 + (20 + 1) * 60
    read_outs = 10 + 4 + 3 * 11 + 1 + 1
    starts = 10 + 20 + 20
    assert sum(map(math.prod, shapes.values())) == cells + biases + read_outs + starts == 8349


@pytest.mark.parametrize("switches, inputs, added, removed", [
    ({"lookahead": True}, 12, {"attention_weights", "attention_shortcut"}, set()),
    ({"time_scales": 1}, 3, set(), {"input_decay_weights", "input_decay_bias"}),
    ({"time_scales": 2}, 6, set(), set()),
    ({"relative_log_mean_squares": False}, 8, set(), set()),
    ({"gradient_products": False}, 9, set(), set()),
    ({"relative_learning_rate": "tensor"}, 12, set(), set()),
    ({"relative_learning_rate": "off"}, 11, set(), set()),
    ({"gradient_shortcut": False}, 12, set(), {"direction_shortcut"}),
    ({"learnable_input_decay": False}, 12, set(), {"input_decay_weights", "input_decay_bias"}),
    ({"learnable_scale_decay": False}, 12, set(), {"scale_decay_weights", "scale_decay_bias"}),
    ({"unit_direction": False}, 12, set(), {"step_size_offset"}),
    ({"dynamic_output_scale": False}, 11, set(),
     {"step_size_offset", "learning_rate_momentum_logit"}),
    ({"learned_start_vectors": False}, 12, set(),
     {"parameter_start", "tensor_start", "global_start"}),
    ({"global_units": 0}, 12, set(),
     {"global_start", "global_to_parameter_kernel", "global_to_parameter_bias",
      "global_to_tensor_kernel", "global_to_tensor_bias", "global_rnn/gates_kernel",
      "global_rnn/gates_bias", "global_rnn/candidate_kernel", "global_rnn/candidate_bias"}),
])
def test_a_switch_changes_the_network(switches, inputs, added, removed):
    config = dataclasses.replace(DEFAULT, **switches)
    assert config.inputs == inputs
    names, default = set(parameters(config)), set(parameters(DEFAULT))
    assert names - default == added
    assert default - names == removed


def test_one_level_has_neither_tensor_nor_global_network():
    names = parameters(HierarchicalRNNConfig(tensor_units=0, global_units=0))
    assert not [name for name in names if "tensor" in name or "global" in name]


@pytest.mark.parametrize("switches, message", [
    ({"parameter_units": 0}, "`parameter_units` must be from 1 to 1024, got 0"),
    ({"parameter_units": 2.0}, "`parameter_units` must be an integer, got 2.0"),
    ({"tensor_units": -1}, "`tensor_units` must be from 0 to 1024, got -1"),
    ({"tensor_units": True}, "`tensor_units` must be an integer, got True"),
    ({"global_units": 1025}, "`global_units` must be from 0 to 1024, got 1025"),
    ({"tensor_units": 0}, "`global_units` must be 0 where `tensor_units` is 0"),
    ({"time_scales": 9}, "`time_scales` must be from 1 to 8, got 9"),
    ({"lookahead": 1}, "`lookahead` must be True or False, got 1"),
    ({"unit_direction": "no"}, "`unit_direction` must be True or False, got 'no'"),
    ({"relative_learning_rate": True}, "`relative_learning_rate` must be one of"),
    ({"unit_direction": False, "dynamic_output_scale": False},
     "`dynamic_output_scale` must be True without `unit_direction`"),
])
def test_a_switch_that_is_not_allowed_is_named(switches, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalRNNConfig(**switches)


def test_round_trip_through_json():
    config = HierarchicalRNNConfig(
        parameter_units=3, lookahead=True, time_scales=2, relative_learning_rate="tensor")
    assert HierarchicalRNNConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("values, message", [
    ({"depth": 3}, "switches that 'hrnn' does not know: depth"),
    ([1], "`config` of 'hrnn' must be a dict of switches, got list"),
    ({"time_scales": "4"}, "`time_scales` must be an integer"),
])
def test_a_dict_that_is_no_config_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalRNNConfig.from_dict(values)


@pytest.mark.parametrize("of, owners", [("paramter", None), ("vector", None)])
def test_a_field_that_belongs_to_nothing_is_refused(of, owners):
    with pytest.raises(ValueError, match=f"`of` must be 'parameter', .* got '{of}'"):
        Field(of, owners=owners).shape(Layout([(3,)]))
