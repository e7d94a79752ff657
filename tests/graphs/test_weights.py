"""Weight files: every bit comes back, others can read them, and what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from opdiff.graphs.errors import InputError
from opdiff.graphs.weights import (
    LINKED,
    SharedWeights,
    TensorSource,
    WeightFile,
    check_folder,
    write_safetensors,
    written_beside,
)

KINDS = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SPECIAL = np.array([np.nan, -np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-45, 3.4e38], np.float32)


@st.composite
def tensors(draw):
    """An array of any bits of any storable type: NaN payloads, -0.0, subnormals, bfloat16, no elements at all."""
    shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple))
    if draw(st.booleans()):
        return draw(arrays(np.uint16, shape)).view(BFLOAT16)
    return draw(st.sampled_from(KINDS).flatmap(lambda kind: arrays(kind, shape)))


def write(path: Path, **named: np.ndarray) -> Path:
    sources = [TensorSource(name, a.dtype, a.shape, lambda a=a: a) for name, a in named.items()]
    write_safetensors(path, sources, {"made by": "a test"})
    return path


def assert_same_bits(left: np.ndarray, right: np.ndarray) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


@given(st.lists(tensors(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_every_bit_comes_back(values):
    with TemporaryDirectory() as folder:
        named = {f"t{i}": value for i, value in enumerate(values)}
        file = WeightFile(write(Path(folder) / "w.safetensors", **named))
        assert set(file) == set(named)
        assert file.metadata == {"made by": "a test"}
        for name, value in named.items():
            assert_same_bits(file[name], value)
            offset, n_bytes = file.location(name)
            assert file.path.read_bytes()[offset : offset + n_bytes] == value.tobytes()


def test_scalar_comes_back_as_a_scalar(tmp_path):
    assert WeightFile(write(tmp_path / "w.safetensors", a=np.array(2.5)))["a"].shape == ()


def test_special_values_are_read_by_the_safetensors_package(tmp_path):
    named = {
        "float32": SPECIAL,
        "bfloat16": SPECIAL.astype(BFLOAT16),
        "int8": np.array([[-128, 127]], np.int8),
        "empty": np.empty((0, 3), np.float32),
    }
    path = write(tmp_path / "w.safetensors", **named)
    theirs = safetensors.torch.load_file(path)
    assert set(theirs) == set(named)
    for name, value in named.items():
        ours = torch.from_numpy(value.view(np.uint16)) if value.dtype == BFLOAT16 else torch.from_numpy(value)
        found = theirs[name].view(torch.uint16) if value.dtype == BFLOAT16 else theirs[name]
        assert_same_bits(found.numpy(), ours.numpy())
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"made by": "a test"}


def test_files_of_the_safetensors_package_are_read(tmp_path):
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file({"a": torch.from_numpy(SPECIAL), "b": torch.ones(2, 3, dtype=torch.bfloat16)}, path)
    file = WeightFile(path)
    assert_same_bits(file["a"], SPECIAL)
    assert_same_bits(file["b"], np.ones((2, 3), BFLOAT16))


def test_writing_to_a_tensor_does_not_change_the_file(tmp_path):
    path = write(tmp_path / "w.safetensors", a=np.zeros(4, np.float32))
    before = path.read_bytes()
    WeightFile(path)["a"][:] = 7
    assert path.read_bytes() == before


@pytest.fixture
def whole(tmp_path) -> bytes:
    return write(
        tmp_path / "w.safetensors", a=np.arange(6, dtype=np.float32), b=np.arange(3, dtype=np.int8)
    ).read_bytes()


def read(folder: Path, data: bytes) -> dict[str, np.ndarray]:
    path = folder / "damaged.safetensors"
    path.write_bytes(data)
    file = WeightFile(path)
    return {name: file[name] for name in file}


def test_file_cut_short_anywhere_is_refused(whole, tmp_path):
    for length in range(len(whole)):
        with pytest.raises(InputError, match=r"damaged\.safetensors: .*(cut short|no JSON)"):
            read(tmp_path, whole[:length])


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_header_with_bytes_changed_is_read_or_refused_never_a_crash(data):
    with TemporaryDirectory() as folder:
        whole = bytearray(write(Path(folder) / "w.safetensors", a=np.arange(6, dtype=np.float32)).read_bytes())
        n_header = 8 + int.from_bytes(whole[:8], "little")
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, n_header - 1))] = data.draw(st.integers(0, 255))
        try:
            read(Path(folder), bytes(whole))
        except InputError as e:
            assert "\n" not in str(e)


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "7",
        '{"a": 7}',
        json.dumps({"a": {**ENTRY, "dtype": "F31"}}),
        json.dumps({"a": {**ENTRY, "shape": [2]}}),
        json.dumps({"a": {**ENTRY, "shape": [-1]}}),
        json.dumps({"a": {**ENTRY, "shape": [1 << 62, 1 << 62]}}),
        json.dumps({"a": {**ENTRY, "shape": None}}),
        json.dumps({"a": {**ENTRY, "data_offsets": [0, 1 << 70]}}),
        json.dumps({"a": {**ENTRY, "data_offsets": [-4, 0]}}),
        json.dumps({"a": {**ENTRY, "data_offsets": [4, 0]}}),
        json.dumps({"a": {**ENTRY, "data_offsets": [0]}}),
        json.dumps({"a": {**ENTRY, "shape": [float("inf")]}}),
        json.dumps({"a": {**ENTRY, "shape": [float("nan")]}}),
        json.dumps({"__metadata__": [], "a": ENTRY}),
        "[" * 100_000,
    ],
    ids=lambda text: text[:50],
)
def test_hostile_header_is_refused(tmp_path, header):
    text = header.encode()
    with pytest.raises(InputError, match=r"damaged\.safetensors"):
        read(tmp_path, len(text).to_bytes(8, "little") + text + b"\0" * 4)


@pytest.mark.parametrize("length", [9, 1 << 40, (1 << 64) - 1])
def test_header_longer_than_its_file_is_refused(tmp_path, length):
    with pytest.raises(InputError, match="cut short"):
        read(tmp_path, length.to_bytes(8, "little") + b"{}")


def test_folder_and_missing_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="not there, or no file"):
        WeightFile(tmp_path)
    with pytest.raises(InputError, match="not there, or no file"):
        WeightFile(tmp_path / "missing")


def test_writing_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "w"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_beside(path) as partial:
        partial.write_text("half")
        1 / 0  # noqa: B018
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    assert path.read_text() == "old"


def test_folder_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing/w: cannot be written"):
        write(tmp_path / "missing" / "w", a=np.zeros(1, np.float32))


def test_a_place_for_a_file_is_refused_before_it_is_written(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no such folder"):
        check_folder(tmp_path / "missing" / "result.json")
    with pytest.raises(InputError, match="a folder or a device"):
        check_folder(tmp_path)
    with pytest.raises(InputError, match="a folder or a device"):
        write(Path("/dev/null"), a=np.zeros(1, np.float32))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # who runs the tests may be allowed to write everywhere
    with pytest.raises(InputError, match="cannot be written to"):
        check_folder(tmp_path / "result.json")


def test_a_linked_checkpoint_that_is_gone_or_no_file_is_refused(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    facts = {LINKED: json.dumps({"model.gguf": {"t": entry}})}
    write_safetensors(tmp_path / "w", [], facts)
    for make in (lambda path: None, Path.mkdir):
        make(tmp_path / "model.gguf")
        with pytest.raises(InputError, match="not there, or no file"):
            SharedWeights(tmp_path / "w")
