"""What a fault is, and at which line of each side: faults that people who port a model made in trials."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from own_files import line_of, told

NORM = """
def norm(x, gain):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain
"""
TURN = """
def turn(x, positions):
    angles = positions.float()[:, None] * 0.1 ** torch.arange(16)
    u, v = x.chunk(2, -1)
    return torch.cat((u * angles.cos() - v * angles.sin(), v * angles.cos() + u * angles.sin()), -1)
"""
PARTED = """
angles = torch.arange(6).float()[:, None] * 0.1 ** torch.arange(16)
u, v = x[:, :16], x[:, 16:]
left = u * angles.cos() - v * angles.sin()
right = v * angles.cos() - u * angles.sin()
return torch.cat((left, right), -1)
"""
BUCKETS = """
far = torch.arange(6)[:, None] - torch.arange(32)
ratio = torch.log(far.abs().clamp(min=1) + 0 * x) / 1.3862944
bucket = (ratio * 4).WAY()
return x + bucket
"""
WIDE = """
def wide(x):
    return x.reshape(6, 2, 16).repeat_interleave(2, 1)
"""
SPREAD = f"{WIDE}\nkey, value = x.exp(), x.sin()\nspread = wide(VALUE)\nout = (spread.mT @ wide(key)).reshape(6, 256)\nreturn x + out[:, :32]"
LOOPED = """
state, out = torch.zeros(32), []
for n in range(6):
    out.append(SEEN)
    state = state * self.wpe[2] + x[n]
return torch.stack(out)
"""
GATED = """
total, w = torch.zeros_like(x), self.head[:32].T
for n in range(5):
    part = (x[:, n : n + 1] * 9).clamp(min=0)
    {}
return total
"""
WAVES = """
def waves():
    angles = torch.arange(6).float()[:, None] * 0.1 ** torch.arange(16)
    return {}
cos, sin = waves()
u, v = x.chunk(2, -1)
return torch.cat((u * cos - v * sin, v * cos + u * sin), -1)
"""
WINDOW = """
before, apart = {}
padded = torch.nn.functional.pad(x.exp().T, (before, 0))
return torch.nn.functional.conv1d(padded, self.wpe[:32, None, :5], dilation=apart, groups=32).T
"""
OFFSETS = """
def near(offset):
    return torch.where(offset.abs() < 2, offset.abs(), offset.abs() // 2 + 1)
def bucket(offset):
    side = (offset > 0).long() * 4
    return {}
offset = (x @ x.T).sign().long()[:, :6] + torch.arange(6)
return x + self.wpe[bucket(offset)].sum(1)
"""
SHIFTED = "positions = torch.arange(6).float()\n{turn}\nreturn turn(x, positions{argument})"


@dataclass(frozen=True)
class Case:
    """A right body and a wrong one; what is said, and the text of each side's line."""

    a: str
    b: str
    says: str
    a_line: str
    b_line: str


CASES = {
    "a helper that is called with another weight, in a copied file": Case(
        f"{NORM}\nreturn norm(x, self.wpe[0])",
        f"{NORM}\nreturn norm(x, self.wpe[1])",
        "where",
        "return norm(x, self.wpe[0])",
        "return norm(x, self.wpe[1])",
    ),
    "a step in the argument of a helper": Case(
        SHIFTED.format(turn=TURN, argument=""),
        SHIFTED.format(turn=TURN, argument=".clamp(max=3)"),
        "minimum(x, 3) is extra",
        "return turn(x, positions)",
        "return turn(x, positions.clamp(max=3))",
    ),
    "one step inside what the other side has as one operator": Case(
        "return (x @ x.T).softmax(-1) @ x",
        "scores = x @ x.T\nweights = (scores - scores.amax(-1, keepdim=True)).exp()\n"
        "weights = weights / (weights.sum(-1, keepdim=True) + 1)\nreturn weights @ x",
        "x + 1 is extra, x = sum(exp(",
        "return (x @ x.T).softmax(-1) @ x",
        "weights = weights / (weights.sum(-1, keepdim=True) + 1)",
    ),
    "numbers that are moved otherwise": Case(
        "y = x.exp()\nreturn y.reshape(6, 4, 8).transpose(1, 2).reshape(6, 32)",
        "y = x.exp()\nreturn y.reshape(6, 8, 4).transpose(1, 2).reshape(6, 32)",
        "",
        "return y.reshape(6, 4, 8).transpose(1, 2).reshape(6, 32)",
        "return y.reshape(6, 8, 4).transpose(1, 2).reshape(6, 32)",
    ),
    "a reduction over all axes": Case(
        "x = x * torch.arange(1, 7)[:, None]\nreturn x / x.abs().amax(-1, keepdim=True)",
        "x = x * torch.arange(1, 7)[:, None]\nreturn x / x.abs().max()",
        "over all axes",
        "return x / x.abs().amax(-1, keepdim=True)",
        "return x / x.abs().max()",
    ),
    "a bias behind a function that is exported in several steps": Case(
        "return torch.nn.functional.softplus(x @ self.head[:32].T + self.wpe[0])",
        "return torch.nn.functional.softplus(x @ self.head[:32].T) + self.wpe[0]",
        "softplus(",
        "return torch.nn.functional.softplus(x @ self.head[:32].T + self.wpe[0])",
        "return torch.nn.functional.softplus(x @ self.head[:32].T) + self.wpe[0]",
    ),
    "a sign in one of the parts that are put side by side": Case(
        f"{TURN}\nreturn turn(x, torch.arange(6))",
        PARTED,
        "where Mine A has",
        "return torch.cat((u * angles.cos() - v * angles.sin(), v * angles.cos() + u * angles.sin()), -1)",
        "right = v * angles.cos() - u * angles.sin()",
    ),
    "a value of another name that a helper moves before it is read": Case(
        SPREAD.replace("VALUE", "value"),
        SPREAD.replace("VALUE", "key"),
        "exp(embed) where Mine A",
        "spread = wide(value)",
        "spread = wide(key)",
    ),
    "a step that is extra in the line that reads the value": Case(
        "opening = (x @ self.head[:32].T).sigmoid()\nreturn opening * x.exp()",
        "opening = (x @ self.head[:32].T).sigmoid()\nreturn (1 - opening) * x.exp()",
        "1 - x is extra",
        "return opening * x.exp()",
        "return (1 - opening) * x.exp()",
    ),
    "a limit of one term in the place of the sum's": Case(
        "x = x + x.exp()\nreturn x.clamp(-1.5, 1.5)",
        "x = x + x.exp().clamp(-1.5, 1.5)\nreturn x",
        "embed + clip(exp(embed), -1.5, 1.5) where Mine A has clip(embed + exp(embed), -1.5, 1.5)",
        "x = x + x.exp()",
        "x = x + x.exp().clamp(-1.5, 1.5)",
    ),
    "two steps in another order, with a constant between": Case(
        "y = (x @ self.head[:32].T) * 0.3\ny = (y / 6).tanh() * 6\nreturn y + x",
        "y = x @ self.head[:32].T\ny = (y / 6).tanh() * 6\nreturn y * 0.3 + x",
        "* 0.3 where Mine A has tanh(",
        "y = (x @ self.head[:32].T) * 0.3",
        "return y * 0.3 + x",
    ),
    "a square of the mean": Case(
        "return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()",
        "return x / (x.mean(-1, keepdim=True).pow(2) + 1e-6).sqrt()",
        "mean(embed)^2 where Mine A has mean(embed^2)",
        "return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()",
        "return x / (x.mean(-1, keepdim=True).pow(2) + 1e-6).sqrt()",
    ),
    "parts of other sizes": Case(
        "first, rest = x.exp().split([12, 20], -1)\nreturn torch.cat((rest.sin(), first), -1)",
        "rest, first = x.exp().split([20, 12], -1)\nreturn torch.cat((rest.sin(), first), -1)",
        "Split with [20, 12] where Mine A has [12, 20], and part 1 is taken where Mine A takes part 2",
        "first, rest = x.exp().split([12, 20], -1)",
        "rest, first = x.exp().split([20, 12], -1)",
    ),
    "a view of other groups": Case(
        "y = x.reshape(6, 4, 8)\nreturn (y - y.mean(-1, keepdim=True)).reshape(6, 32)",
        "y = x.reshape(6, 8, 4)\nreturn (y - y.mean(-1, keepdim=True)).reshape(6, 32)",
        "mean is taken over other axes",
        "y = x.reshape(6, 4, 8)",
        "y = x.reshape(6, 8, 4)",
    ),
    "a view of other groups before a part": Case(
        "return x * x.exp().reshape(6, 2, 16).unbind(1)[0].repeat(1, 2)",
        "return x * x.exp().reshape(6, 16, 2).unbind(2)[0].repeat(1, 2)",
        "reshape(",
        "return x * x.exp().reshape(6, 2, 16).unbind(1)[0].repeat(1, 2)",
        "return x * x.exp().reshape(6, 16, 2).unbind(2)[0].repeat(1, 2)",
    ),
    "two weights of another place in one line": Case(
        f"{NORM}\nreturn norm(x, self.wpe[0]) + self.wpe[2]",
        f"{NORM}\nreturn norm(x, self.wpe[1]) + self.wpe[3]",
        "and 3 where Mine A has 2",
        "return norm(x, self.wpe[0]) + self.wpe[2]",
        "return norm(x, self.wpe[1]) + self.wpe[3]",
    ),
    "a constant of which several numbers are made": Case(
        "n = 4\ny = (x + 3).abs()\nz = y / n\nreturn torch.log(z + 1) * n",
        "n = 2\ny = (x + 3).abs()\nz = y / n\nreturn torch.log(z + 1) * n",
        "2 where Mine A has 4",
        "z = y / n",
        "z = y / n",
    ),
    "a weight that is computed of others": Case(
        "return x @ self.head[:32].T",
        "weight = self.wpe[:32, :32] * self.wpe[:32, :1]\nreturn x @ weight.T",
        "where Mine A has",
        "return x @ self.head[:32].T",
        "weight = self.wpe[:32, :32] * self.wpe[:32, :1]",
    ),
    "a line of a loop": Case(
        LOOPED.replace("SEEN", "state + self.wpe[1] * x[n]"),
        LOOPED.replace("SEEN", "self.wpe[1] * state + x[n]"),
        ", each time that the line runs",
        "out.append(state + self.wpe[1] * x[n])",
        "out.append(self.wpe[1] * state + x[n])",
    ),
    "a state that a loop rounds": Case(
        LOOPED.replace("SEEN", "state.sin()"),
        LOOPED.replace("SEEN", "state.sin()").replace("+ x[n]", "+ x[n]\n    state = state.bfloat16().float()"),
        "to_bfloat16(x) is extra",
        "state = state * self.wpe[2] + x[n]",
        "state = state.bfloat16().float()",
    ),
    "one step of a loop in the place of another": Case(
        GATED.format("total = total + part * (x @ w + self.wpe[n])"),
        GATED.format("total = total + part * (x @ w)\n    total = total + (part > 0) * self.wpe[n]"),
        "is left out, x = embed @",
        "total = total + part * (x @ w + self.wpe[n])",
        "total = total + part * (x @ w)",
    ),
    "the same step for two values of one line": Case(
        f"{WAVES.format('angles.cos(), angles.sin()')}",
        f"{WAVES.format('1.3 * angles.cos(), 1.3 * angles.sin()')}",
        ", and x = sin(",
        "return angles.cos(), angles.sin()",
        "return 1.3 * angles.cos(), 1.3 * angles.sin()",
    ),
    "two settings of which none can be mended alone": Case(
        WINDOW.format("4, 1"),
        WINDOW.format("8, 2"),
        "; and Conv with dilations=[2] where Mine A has [1]",
        "padded = torch.nn.functional.pad(x.exp().T, (before, 0))",
        "padded = torch.nn.functional.pad(x.exp().T, (before, 0))",
    ),
    "one reader of a value that others read too": Case(
        "y = x.exp()\nz = (y / 2).sin()\nreturn z + y * self.wpe[0]",
        "y = x.exp()\nz = (y / 2).sin()\nreturn z + (x @ x.T @ x).sin() * self.wpe[0]",
        "where Mine A has exp(embed), in exp(embed) * ",
        "return z + y * self.wpe[0]",
        "return z + (x @ x.T @ x).sin() * self.wpe[0]",
    ),
    "a roll": Case(
        "return x + x.exp()",
        "return x + x.exp().roll(2, 0)",
        "roll(x, 2, axis -2) is extra",
        "return x + x.exp()",
        "return x + x.exp().roll(2, 0)",
    ),
    "a value repeated otherwise": Case(
        "y = x.exp()[:, :16].reshape(6, 4, 4)\nreturn x * y.repeat_interleave(2, 1).reshape(6, 32)",
        "y = x.exp()[:, :16].reshape(6, 4, 4)[:, :1]\nreturn x * y.expand(6, 8, 4).reshape(6, 32)",
        " where Mine A has ",
        "y = x.exp()[:, :16].reshape(6, 4, 4)",
        "y = x.exp()[:, :16].reshape(6, 4, 4)[:, :1]",
    ),
    "what is added to what the other side has too": Case(
        OFFSETS.format("side + near(offset)"),
        OFFSETS.format("near(offset)"),
        "is left out",
        "side = (offset > 0).long() * 4",
        "return x + self.wpe[bucket(offset)].sum(1)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_said_at_the_lines_that_hold_it(name, tmp_path):
    case = CASES[name]
    cause, (a, b) = told(tmp_path, case.a, case.b)
    assert case.says in cause.text
    assert (cause.a_source, cause.source) == (line_of(a, case.a_line), line_of(b, case.b_line))


def test_what_is_made_of_weights_alone_is_run_in_double_precision(tmp_path):
    a = 'y = tap("side", self.wpe[:6, :32] @ self.head[:32].T, axes="token channel")\nreturn x + y'
    cause, (_, b) = told(tmp_path, a, a.replace("self.head[:32].T", "self.head[:32].T * 1.5"))
    assert "x * 1.5 is extra" in cause.text
    assert cause.source == line_of(b, 'tap("side"')


def test_a_choice_that_float32s_own_rounding_may_turn_is_a_fault_where_it_does_not(tmp_path):
    cause, (_, b) = told(tmp_path, BUCKETS.replace("WAY", "floor"), BUCKETS.replace("WAY", "round"))
    assert "round(" in cause.text
    assert cause.source == line_of(b, "bucket = (ratio * 4).round()")
