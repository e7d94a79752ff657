"""The site: `make docs`. Pages are Markdown; commands, the JSON and the API are read from the code."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "opdiff"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "schema_tables"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "opdiff"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

default_role = "code"
smartquotes = False  # two hyphens are an option
add_module_names = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 90
napoleon_custom_sections = [("Fields", "params_style")]


def setup(app):
    """Two texts are read as their writers meant them: bars in docstrings, and the examples of the commands' help."""
    app.connect("autodoc-process-docstring", lambda *event: _with_bars(event[-1]))
    app.connect("sphinx-click-process-description", lambda app, context, lines: _with_examples(lines))


def _with_bars(lines):
    """`|B - A| / |A|` names no substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def _with_examples(lines):
    """What stands after `Example:` is a literal block."""
    if "| Example:" in lines:
        start = lines.index("| Example:")
        lines[start:] = [
            "Example:",
            "",
            "::",
            "",
            *(f"   {line.removeprefix('|').strip()}" for line in lines[start + 1 :]),
            "",
        ]
