"""The table of kinds in the documentation says what there is."""

import pathlib
import re

import numpy as np

from hrnn_opt import Layout
from hrnn_opt.registry import config_from_dict, kinds, network_of

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "which_optimizer.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| ([\d,]+) \| [\d,]+ \| (\d+) \|([^|]*)\|", re.MULTILINE)
WORDS = {"parameters": "parameters", "loss": "loss", "horizon": "number of steps",
         "progress": "share of the training"}


def size(network) -> int:
    return sum(int(np.prod(v.shape)) for v in network.meta_parameters.values())


def test_the_table_has_every_kind_with_its_numbers():
    rows = {kind: rest for kind, *rest in ROW.findall(PAGE)}
    ours = {kind for kind, cls in kinds().items() if cls.__module__.startswith("hrnn_opt.")}
    assert set(rows) == ours
    layout = Layout([(256, 256)])
    for kind, (count, width, reads) in rows.items():
        network = network_of(config_from_dict({"kind": kind}))
        assert int(count.replace(",", "")) == size(network), kind
        state = sum(4 * int(np.prod(f.shape(layout))) for f in network.fields.values())
        assert round(state / layout.parameters) == int(width), kind
        for need, words in WORDS.items():
            assert (words in reads) == (need in network.needs), (kind, need)


def test_the_published_velo_has_its_size():
    network = network_of(config_from_dict({"kind": "velo", "units": 512, "bank": 256}))
    assert f"{size(network):,}" in PAGE
