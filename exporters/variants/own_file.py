"""A user's own Python file: imported with the files that lie beside it, which no other file's imports get to see."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from ...graphs.errors import InputError
from ..refusal import LIBRARIES, reason

_OURS = __name__.partition(".")[0]
_imported: dict[Path, dict[str, ModuleType]] = {}  # by folder, what was imported from it


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Inside this block imports find the files of `folder` first, as they do for a script that lies there.

    What was imported from there is put aside afterwards, and is there again when the folder's next file is imported: a
    file of the same name in another folder is another module.
    """
    folder = folder.resolve()
    own = _imported.setdefault(folder, {})
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    hidden = {
        name: module for name, module in sys.modules.items() if name.partition(".")[0] in names and _is_users(name)
    }
    before = set(sys.modules) - set(hidden)
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(own)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name not in before and _is_users(name, folder)]:
            own[name] = sys.modules.pop(name)
        sys.modules.update(hidden)


def _is_users(name: str, folder: Path = Path("/")) -> bool:
    """Whether a module that is loaded lies below `folder`, and is neither of an installed package nor of opdiff."""
    spec = getattr(sys.modules[name], "__dict__", {}).get("__spec__")  # some modules make up what they are asked for
    if not isinstance(spec, ModuleSpec):
        return False
    places = [spec.origin if spec.has_location else None, *(spec.submodule_search_locations or ())]
    files = [Path(place).resolve() for place in places if place]
    is_library = any(file.is_relative_to(library) for file in files for library in LIBRARIES)
    is_below = any(file.is_relative_to(folder) for file in files)
    return is_below and not is_library and name.partition(".")[0] not in (_OURS, "__main__")


def imported(path: Path) -> ModuleType:
    """The module that the file is.

    Raises:
        InputError: it is not there, or cannot be imported.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a Python file, as in FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"opdiff_variant_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with beside(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:  # the user's own file may raise anything
        raise InputError(f"{path}: cannot be imported: {reason(e)}") from e
    return module
