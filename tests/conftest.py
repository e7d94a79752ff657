"""What several tests read: real exports, each made once, whichever worker asks first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from opdiff.compare.diagnose import compare
from opdiff.compare.result import Result
from opdiff.exporters.checkpoints import open_checkpoint
from opdiff.exporters.export import export
from opdiff.exporters.variants.registry import parse_variant

SEED_TOKENS = (1, 5, 3)
PARIS_TOKENS = (504, 3575, 282, 4649, 314)  # "The capital of France is"
SEED_VARIANTS = (
    "dsl",
    "dsl:rope=half_split",
    "legacy",
    "legacy:converter=on",
    "reference",
    "reference:weights=q8_0",
)


def made_once(factory: pytest.TempPathFactory, worker: str, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all workers of this run share, made by the first of them that asks for it."""
    root = factory.getbasetemp() if worker == "master" else factory.getbasetemp().parent
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


def exported(model: str, variants: tuple[str, ...], folder: Path, length: int | None = None) -> None:
    """Where `length` says for how many tokens, an export takes half the time."""
    export(open_checkpoint(model, folder), [parse_variant(text) for text in variants], folder, length=length)


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The synthetic Qwen3 of the bug report, by every variant: dsl.onnx, legacy.converter=on.onnx, ..."""
    return made_once(tmp_path_factory, worker_id, "seed", lambda folder: exported("seed", SEED_VARIANTS, folder))


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """SmolLM2-135M by dsl, legacy and reference, exact and with ggml's rounding of activations."""
    variants = ("dsl", "legacy", "reference", "reference:activations=ggml")
    return made_once(tmp_path_factory, worker_id, "smollm2", lambda folder: exported("smollm2", variants, folder))


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A random Qwen3 of 4 blocks, GQA, head_dim != width / heads, gains far from 1: model.gguf, and its variants."""

    def make(folder: Path) -> None:
        from corpus.models import tiny_model, write_gguf

        model = str(write_gguf(tiny_model("qwen3", n_blocks=4), folder / "model.gguf"))
        exported(model, ("reference", "legacy:head_dim=metadata", "hf", "dsl"), folder)

    return made_once(tmp_path_factory, worker_id, "qwen3", make)


@pytest.fixture(scope="session")
def diagnosis(seed: Path) -> Result:
    """DSL against legacy as reported, at tokens 1, 5, 3."""
    return compare(seed / "dsl.onnx", seed / "legacy.onnx", SEED_TOKENS, seed / "reference.onnx")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window; started once."""
    playwright = pytest.importorskip("playwright.sync_api", reason="wants playwright: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("wants Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()
