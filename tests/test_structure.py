"""The architecture: exporters -> graphs <- compare, compare without torch, and a quick --help."""

from __future__ import annotations

import ast
import subprocess
import sys
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
