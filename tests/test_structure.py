"""The architecture: exporters -> graphs <- compare, compare without torch, and a quick --help."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"exporters": ("compare",), "compare": ("exporters",), "graphs": ("exporters", "compare")}


def wrong_imports(folder: Path, forbidden: tuple[str, ...]) -> list[str]:
    """Imports of a forbidden sibling package, relative ones and by name."""
    found = []
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names if not node.module)]
            found += [f"{file.name}: {name}" for name in names if set(name.split(".")[:2]) & set(forbidden)]
    return found


def test_imports_go_one_way():
    for package, forbidden in FORBIDDEN.items():
        assert wrong_imports(ROOT / package, forbidden) == []


def test_the_check_of_imports_can_fail(tmp_path):
    (tmp_path / "bad.py").write_text("from ..exporters.export import export\n")
    assert wrong_imports(tmp_path, ("exporters",)) == ["bad.py: exporters.export"]


# The rooms of compare/: each imports only from those on a lower floor, or from itself.
FLOORS = {
    "measure": 0,
    "listed": 0,
    "result": 1,
    "conventions": 1,
    "sides": 2,
    "judge": 3,
    "align": 3,
    "explain": 4,
    "mend": 5,
    "look": 6,
    "report": 5,
    "opening": 6,
    "diagnose": 7,
    "verdict": 8,
    "saved": 9,
    "outputs": 9,
    "baseline": 4,
    "command": 10,
    "align_command": 11,
    "schemas": 10,
    "report_command": 11,
    "verdict_command": 11,
}


def climbing_imports(folder: Path) -> list[str]:
    """Relative imports of a room from another that is not on a lower floor."""
    found = []
    for file in folder.rglob("*.py"):
        place = file.relative_to(folder)
        room = place.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == len(place.parts):
                other = (node.module or "").split(".")[0]
                is_below = FLOORS.get(other, -1) < FLOORS.get(room, -1) or (room, other) == ("result", "report")
                if other != room and (other not in FLOORS or not is_below):
                    found.append(f"{place}: {other}")
    return found


def circles(folder: Path) -> list[str]:
    """Files of one package that import each other in a circle, for types too."""
    reads = {}
    for file in folder.glob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom) and n.level == 1]
        reads[file.stem] = {node.module.split(".")[0] for node in nodes if node.module}
    try:
        tuple(TopologicalSorter(reads).static_order())
    except CycleError as e:
        return list(e.args[1])
    return []


def test_rooms_of_compare_import_downwards():
    assert climbing_imports(ROOT / "compare") == []


def test_no_files_import_each_other_in_a_circle():
    packages = {file.parent for name in FORBIDDEN for file in (ROOT / name).rglob("*.py")}
    assert {str(package): circle for package in packages if (circle := circles(package))} == {}


def test_the_checks_of_rooms_and_circles_can_fail(tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "locate.py").write_text("from ..explain.faults import faults\nfrom .cancel import one\n")
    (tmp_path / "judge" / "cancel.py").write_text("from .locate import other\n")
    assert climbing_imports(tmp_path) == ["judge/locate.py: explain"]
    assert set(circles(tmp_path / "judge")) == {"locate", "cancel"}


WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'transformers', 'onnxscript'}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_compare_runs_where_torch_is_not_installed(seed):
    a, b = seed / "dsl.onnx", seed / "legacy.onnx"
    code = f"from opdiff.compare.diagnose import compare\nprint(compare({str(a)!r}, {str(b)!r}, [1, 5]).parity)"
    done = run(WITHOUT_TORCH + code)
    assert done.stdout.strip() == "False", done.stderr


def test_the_check_for_torch_can_fail():
    assert "blocked: torch" in run(WITHOUT_TORCH + "import opdiff.exporters.export").stderr


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom opdiff.__main__ import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules))"
    assert run(code).stdout.strip().endswith("set()")
