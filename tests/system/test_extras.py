import sys

from invariances.system.extras import installed


def test_a_folder_of_a_packages_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_of_another_run").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert installed("torch")
    assert not installed("wandb_of_another_run")
    assert not installed("never_heard_of")
