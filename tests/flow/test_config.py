import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from invariances.flow import EmbedderConfig, FlowConfig
from invariances.system.errors import UserError


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (FlowConfig, {"blocks": 0}, "flow.blocks is 0; give a whole number of at least 1 and below 1001"),
        (FlowConfig, {"blocks": 1001}, "below 1001"),
        (FlowConfig, {"blocks": 2.0}, "whole number"),
        (FlowConfig, {"blocks": True}, "whole number"),
        (FlowConfig, {"width": 65_537}, "flow.width"),
        (FlowConfig, {"width": float("nan")}, "flow.width"),
        (FlowConfig, {"depth": -1}, "flow.depth"),
        (FlowConfig, {"depth": 101}, "flow.depth"),
        (FlowConfig, {"transform": "coupling"}, "use 'couplings'"),
        (FlowConfig, {"transform": None}, "flow.transform"),
        (FlowConfig, {"embedder": "published"}, "give an EmbedderConfig"),
        (EmbedderConfig, {"kind": "residual"}, "'published', 'regression'"),
        (EmbedderConfig, {"depth": 1}, "at least 2"),
        (EmbedderConfig, {"width": 0}, "flow.embedder.width"),
    ],
)
def test_what_makes_no_flow_gets_a_sentence(kind, values, expected):
    with pytest.raises(UserError, match=expected):
        kind(**values)


def test_bounds_are_taken_and_nothing_changes_afterwards():
    config = FlowConfig("continuous", 1000, 65_536, 100, EmbedderConfig("regression", 100, 65_536))
    with pytest.raises(FrozenInstanceError):
        config.blocks = 3


def test_published_is_the_default():
    assert FlowConfig.published() == FlowConfig("couplings", 20, 1024, 2, EmbedderConfig("published", 4, 64))
    assert len({FlowConfig.published(), FlowConfig.minutes(), FlowConfig.hours()}) == 3


def test_configurations_need_no_torch():
    code = "import sys, invariances.flow.config as c; c.FlowConfig.hours(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
