"""Loop and Scan as they run on one input: unrolled like onnxruntime runs them, and compared with what has no loop."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from foreign import models
from onnx import parser

from opdiff.__main__ import main
from opdiff.compare.diagnose import compare
from opdiff.graphs.adopt import flat as flat_module
from opdiff.graphs.adopt.flat import flatten
from opdiff.graphs.adopt.opened import open_foreign
from opdiff.graphs.errors import InputError
from opdiff.graphs.run import Runner

HEADER = '<ir_version: 9, opset_import: ["" : 18]>\n'
RANDOM = np.random.default_rng(1)
X = RANDOM.standard_normal((5, 3)).astype(np.float32)

# What a graph of x [5, 3] is written as.
GRAPHS = {
    "loop of a fixed number of turns": """
        g (float[5, 3] x) => (float[5, 3] y, float[4, 5, 3] all)
        <int64 n = {4}, bool go = {1}, float half = {0.5}> {
            y, all = Loop (n, go, x) <body = body (int64 i, bool c, float[5, 3] s) => (bool d, float[5, 3] t, float[5, 3] u) {
                d = Identity (c)
                a = Mul (s, half)
                b = Cast <to = 1> (i)
                t = Add (a, b)
                u = Sin (t)
            }>
        }""",
    "loop until a sum is large": """
        g (float[5, 3] x) => (float[5, 3] y, float[N, 5, 3] all)
        <float most = {40}, bool go = {1}> {
            y, all = Loop ("", go, x) <body = body (int64 i, bool c, float[5, 3] s) => (bool d, float[5, 3] t, float[5, 3] t2) {
                t = Add (s, x)
                t2 = Identity (t)
                a = Abs (t)
                b = ReduceSum <keepdims = 0> (a)
                d = Less (b, most)
            }>
        }""",
    "loop of no turns": """
        g (float[5, 3] x) => (float[5, 3] y, float[N, 5, 3] all)
        <int64 n = {0}, bool go = {1}> {
            z, all = Loop (n, go, x) <body = body (int64 i, bool c, float[5, 3] s) => (bool d, float[5, 3] t, float[5, 3] u) {
                d = Identity (c)
                t = Add (s, x)
                u = Sin (t)
            }>
            y = Neg (z)
        }""",
    "loop in a loop": """
        g (float[5, 3] x) => (float[5, 3] y)
        <int64 n = {2}, int64 m = {3}, bool go = {1}, float half = {0.5}> {
            y = Loop (n, go, x) <body = body (int64 i, bool c, float[5, 3] s) => (bool d, float[5, 3] t) {
                d = Identity (c)
                w = Loop (m, c, s) <body = inner (int64 j, bool e, float[5, 3] p) => (bool f, float[5, 3] q) {
                    f = Identity (e)
                    k = Cast <to = 1> (i)
                    r = Mul (p, half)
                    q = Add (r, k)
                }>
                t = Sub (w, x)
            }>
        }""",
    "loop with a branch": """
        g (float[5, 3] x) => (float[5, 3] y)
        <int64 n = {4}, int64 two = {2}, bool go = {1}> {
            y = Loop (n, go, x) <body = body (int64 i, bool c, float[5, 3] s) => (bool d, float[5, 3] t) {
                d = Identity (c)
                late = Less (two, i)
                t = If (late) <then_branch = one () => (float[5, 3] v) { v = Sin (s) },
                               else_branch = other () => (float[5, 3] w) { w = Add (s, x) }>
            }>
        }""",
    "scan": """
        g (float[5, 3] x) => (float[3] y, float[5, 3] all)
        <float[3] first = {1, 2, 3}, float half = {0.5}> {
            y, all = Scan <num_scan_inputs = 1, body = body (float[3] s, float[3] p) => (float[3] t, float[3] u) {
                a = Mul (s, half)
                t = Add (a, p)
                u = Tanh (t)
            }> (first, x)
        }""",
    "scan of two from behind, on another axis": """
        g (float[5, 3] x) => (float[5] y, float[5] z, float[5, 3] all, float[3, 5] back)
        <float[5] first = {1, 2, 3, 4, 5}, float half = {0.5}> {
            w = Transpose (x)
            y, z, all, back = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
                scan_output_axes = [-1, 0], scan_output_directions = [0, 1],
                body = body (float[5] s, float[5] r, float[5] p, float[5] q) => (float[5] t, float[5] o, float[5] u, float[5] v) {
                    a = Mul (s, half)
                    t = Add (a, p)
                    o = Sub (r, q)
                    u = Tanh (t)
                    v = Mul (u, o)
                }> (first, first, x, w)
        }""",
    "loop that fills a sequence": """
        g (float[5, 3] x) => (float[4, 5, 3] y)
        <int64 n = {4}, bool go = {1}> {
            empty = SequenceEmpty ()
            all = Loop (n, go, empty) <body = body (int64 i, bool c, seq(float[5, 3]) s) => (bool d, seq(float[5, 3]) t) {
                d = Identity (c)
                k = Cast <to = 1> (i)
                p = Add (x, k)
                t = SequenceInsert (s, p)
            }>
            y = ConcatFromSequence <axis = 0, new_axis = 1> (all)
        }""",
}


def written(text: str, path) -> onnx.ModelProto:
    model = parser.parse_model(HEADER + text)
    onnx.save(model, path)
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_unrolled_gives_what_onnxruntime_gives(name, tmp_path):
    model = written(GRAPHS[name], tmp_path / "one.onnx")
    flat = flatten(open_foreign(tmp_path / "one.onnx"), {"x": X}, {}, Runner())
    names = [output.name for output in model.graph.output]
    wanted = ort.InferenceSession(str(tmp_path / "one.onnx")).run(names, {"x": X})
    for output, array in zip(names, wanted, strict=True):
        np.testing.assert_allclose(flat.array(flat.outputs[output]), array, rtol=1e-5, atol=1e-5)
    assert not {"Loop", "Scan", "If"} & {node.operator for node in flat.nodes}
    assert any("turns that this input takes" in note for note in flat.notes) == ("until" in name)
    assert compare(tmp_path / "one.onnx", tmp_path / "one.onnx").parity


N_TURNS, WIDTH = 4, 12
GIVEN = {"x": RANDOM.standard_normal((N_TURNS, WIDTH)).astype(np.float32)}
TURN = """
    g{n} = MatMul (p{n}, w_gate)
    h{n} = Sigmoid (g{n})
    c{n} = MatMul (s{n}, w_state)
    e{n} = Add (c{n}, p{n})
    f{n} = {act} (e{n})
    s{next} = Mul (h{n}, f{n})
"""  # turn n reads the state s{n} and the row p{n}


def recurrent(path, kind: str, act: str = "Tanh", is_inside: bool = False):
    """A recurrence over the rows of x as a Loop, as a Scan, or unrolled; its weights are in the body where `is_inside`."""
    turn = TURN.replace("{act}", act)

    def of(n: object, following: object) -> str:
        return turn.replace("{next}", str(following)).replace("{n}", str(n))

    if kind == "unrolled":
        steps = "".join(
            f"at{n} = Constant <value_int = {n}> () p{n} = Gather (x, at{n})" + of(n, n + 1) for n in range(N_TURNS)
        )
        body = f"s0 = Identity (first) {steps} last = Identity (s{N_TURNS})"
    elif kind == "Loop":
        body = f"""last = Loop (n, go, first) <body = body (int64 i, bool c, float[W] s0) => (bool d, float[W] s1) {{
            d = Identity (c) p0 = Gather (x, i) {of(0, 1)} }}>"""
    else:
        body = f"""last = Scan <num_scan_inputs = 1, body = body (float[W] s0, float[W] p0) => (float[W] s1) {{
            {of(0, 1)} }}> (first, x)"""
    model = parser.parse_model(
        HEADER + f"g (float[{N_TURNS}, {WIDTH}] x) => (float[1, {WIDTH}] logits)"
        f"<int64 n = {{{N_TURNS}}}, bool go = {{1}}> {{ {body.replace('[W]', f'[{WIDTH}]')} z = MatMul (last, w_out) r = Relu (z) zero = Constant <value_ints = [0]> () row = Unsqueeze (r, zero) logits = MatMul(row, w_out) }}"
    )
    random = np.random.default_rng(7)
    inner = next((a.g for node in model.graph.node for a in node.attribute if a.name == "body"), model.graph)
    for name in ("w_gate", "w_state", "w_out"):
        weight = onnx.numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH)).astype(np.float32), name)
        (inner if is_inside and name != "w_out" else model.graph).initializer.append(weight)
    first = random.standard_normal(WIDTH).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(first, "first"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("is_inside", [False, True])
@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_a_fault_in_a_body_is_found_in_each_turn_and_is_one_cause(kind, is_inside, tmp_path):
    plain = recurrent(tmp_path / "plain.onnx", "unrolled")
    right = compare(plain, recurrent(tmp_path / "right.onnx", kind, "Tanh", is_inside), inputs=(GIVEN, GIVEN))
    assert right.parity, [cause.text for cause in right.root_causes]
    assert len(right.rows) > 6 * N_TURNS
    result = compare(plain, recurrent(tmp_path / "wrong.onnx", kind, "Softsign", is_inside), inputs=(GIVEN, GIVEN))
    (cause,) = result.root_causes
    assert len(cause.taps) == N_TURNS
    assert "softsign(" in cause.edit[0]
    assert "where A has tanh(" in cause.edit[0]
    assert all(tap.endswith("Mul") for tap in cause.taps)
    assert result.closed.complete


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("c{n} = MatMul (s{n}, w_state)", "m{n} = MatMul (s{n}, w_state) c{n} = Neg (m{n})", "-x is extra"),
        ("e{n} = Add (c{n}, p{n})", "e{n} = Sub (c{n}, p{n})", "- step.01.Gather where A has"),
        ("e{n} = Add (c{n}, p{n})", "e{n} = Identity (c{n})", "is left out"),
        ("s{next} = Mul (h{n}, f{n})", "s{next} = Identity (f{n})", "is left out"),
        ("c{n} = MatMul (s{n}, w_state)", "c{n} = MatMul (s{n}, w_gate)", "w_gate where A takes w_state"),
    ],
    ids=["extra", "another operator", "left out", "left out at the end", "another weight"],
)
@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_what_is_written_once_in_a_body_is_one_cause(kind, right, wrong, told, tmp_path, monkeypatch):
    """The first turn begins with a constant, so its values are others' in words."""
    plain = recurrent(tmp_path / "plain.onnx", "unrolled")
    assert right in TURN
    monkeypatch.setattr(sys.modules[__name__], "TURN", TURN.replace(right, wrong))
    result = compare(plain, recurrent(tmp_path / "wrong.onnx", kind, is_inside=True), inputs=(GIVEN, GIVEN))
    (cause,) = result.root_causes
    assert told in cause.edit[0]
    assert len(cause.taps) == N_TURNS
    assert result.closed.complete


def test_two_faults_in_a_body_are_two_causes(tmp_path, monkeypatch):
    plain = recurrent(tmp_path / "plain.onnx", "unrolled")
    wrong = TURN.replace("Sigmoid", "HardSigmoid").replace("Add", "Sub")
    monkeypatch.setattr(sys.modules[__name__], "TURN", wrong)
    result = compare(plain, recurrent(tmp_path / "wrong.onnx", "Loop"), inputs=(GIVEN, GIVEN))
    assert len(result.root_causes) == 2, [cause.text for cause in result.root_causes]
    assert {len(cause.taps) for cause in result.root_causes} == {N_TURNS}
    assert result.closed.complete


class Recurrent(torch.nn.Module):
    """A loop over the rows of x, which fills a list."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, made = x[0], []
        for n in range(x.size(0)):
            state = torch.tanh(self.inner(state)) + x[n]
            made.append(state)
        return self.outer(torch.stack(made))


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_loop_is_the_traced_one(tmp_path):
    module, x = models.filled(Recurrent()), torch.from_numpy(GIVEN["x"])
    a = models.written(module, x, tmp_path / "a.onnx", 18, "x")
    b = tmp_path / "b.onnx"
    asked = dict(
        dynamo=False, opset_version=17, input_names=["x"], output_names=["logits"], dynamic_axes={"x": {0: "n"}}
    )
    torch.onnx.export(torch.jit.script(module), (x,), str(b), **asked)
    assert "Loop" in [node.op_type for node in onnx.load(b).graph.node]
    result = compare(a, b, inputs=(GIVEN, GIVEN))
    assert result.parity
    assert len(result.rows) > 4 * N_TURNS
    module.inner.bias.data[2] = 3.0
    torch.onnx.export(torch.jit.script(module), (x,), str(b), **asked)
    result = compare(a, b, inputs=(GIVEN, GIVEN))
    (cause,) = result.root_causes
    assert len(cause.taps) == N_TURNS
    assert "1 of 12 entries: [2]: 3 where" in cause.text
    assert result.closed.complete


def test_a_loop_without_end_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(flat_module, "_MOST_IN_LOOPS", 500)
    endless = GRAPHS["loop of a fixed number of turns"].replace("{4}", "{1000000000}").replace("float[4,", "float[N,")
    written(endless, tmp_path / "one.onnx")
    refused = CliRunner().invoke(main, ["compare", *[str(tmp_path / "one.onnx")] * 2])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert "its loops run more than 500 nodes on this input" in refused.stderr


def test_what_is_scanned_must_be_of_one_length(tmp_path):
    text = GRAPHS["scan of two from behind, on another axis"].replace("w = Transpose (x)", "w = Identity (x)")
    written(text, tmp_path / "one.onnx")
    with pytest.raises(InputError, match=r"of different lengths: \[3, 5\]"):
        flatten(open_foreign(tmp_path / "one.onnx"), {"x": X}, {}, Runner())
