import subprocess
import sys

import pytest

import invariances
import invariances.data


@pytest.mark.parametrize("module", [invariances, invariances.data])
def test_every_public_name_is_there(module):
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_everything_that_dir_advertises_is_there():
    for name in dir(invariances):
        assert getattr(invariances, name) is not None or name.startswith("__")


def test_import_needs_no_torch():
    code = "import sys, invariances, invariances.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
