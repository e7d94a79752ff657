"""A user's file imports the files beside it, and no other folder's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from opdiff.exporters.variants.registry import VariantRequest, parse_variant


def variant(folder: Path, factor: int, text: str = "") -> VariantRequest:
    """A variant whose folder has a module `lib_of_mine` of its own, and a package."""
    (folder / "pieces_of_mine").mkdir(parents=True)
    (folder / "pieces_of_mine" / "__init__.py").write_text("from lib_of_mine import FACTOR\n")
    (folder / "lib_of_mine.py").write_text(f"FACTOR = {factor}\n")
    (folder / "mine.py").write_text(
        text
        or """
import torch
from lib_of_mine import FACTOR
from pieces_of_mine import FACTOR as SAME


class Mine(torch.nn.Module):
    def __init__(self, checkpoint):
        super().__init__()
        import lib_of_mine  # only now

        self.factors = FACTOR, SAME, lib_of_mine.FACTOR
"""
    )
    return parse_variant(f"{folder / 'mine.py'}:Mine")


def test_each_file_gets_its_own_siblings_however_they_are_called(tmp_path):
    path = list(sys.path)
    one, two = variant(tmp_path / "one", 1), variant(tmp_path / "two", 2)
    assert two.build(None).factors == (2, 2, 2)
    assert one.build(None).factors == (1, 1, 1)
    assert sys.path == path
    assert not {"lib_of_mine", "pieces_of_mine"} & set(sys.modules)


def test_two_variants_of_one_file_share_the_file_beside_it(tmp_path):
    text = "import torch\nimport lib_of_mine\nclass Mine(torch.nn.Module):\n def __init__(self, c): self.__dict__['of'] = lib_of_mine"
    first = variant(tmp_path / "one", 1, text)
    again = parse_variant(f"{tmp_path / 'one' / 'mine.py'}:Mine")
    assert first.build(None).of is again.build(None).of


def test_module_of_the_same_name_that_was_there_before_is_there_again(tmp_path, monkeypatch):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "lib_of_mine.py").write_text("FACTOR = 3\n")
    monkeypatch.syspath_prepend(str(other))
    import lib_of_mine  # type: ignore[import-not-found]

    try:
        assert variant(tmp_path / "one", 1).build(None).factors == (1, 1, 1)
        assert sys.modules["lib_of_mine"] is lib_of_mine
    finally:
        del sys.modules["lib_of_mine"]


def test_installed_package_is_not_loaded_anew_for_a_folder_that_has_one_of_its_name(tmp_path):
    (tmp_path / "one" / "torch").mkdir(parents=True)
    (tmp_path / "one" / "opdiff").mkdir()
    assert variant(tmp_path / "one", 1).build(None).factors == (1, 1, 1)
    assert sys.modules["torch"] is torch


def test_the_command_needs_no_pythonpath_and_forward_may_import_too(tmp_path):
    from own_files import written

    path = written(tmp_path / "one", "import beside_mine\nreturn beside_mine.twice(x)")
    (path.parent / "beside_mine.py").write_text("def twice(x):\n    return x * 2\n")
    command = [sys.executable, "-m", "opdiff", "export", "seed", "--variant", f"{path}:Mine", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "Mine.onnx").exists()
