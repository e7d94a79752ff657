"""Faults in what a module computes of constants, or in other steps than the other side: told at their own lines."""

from __future__ import annotations

import pytest
from own_files import FEW_TOKENS as TOKENS
from own_files import exported, line_of, told, written

from opdiff.compare.diagnose import compare

FREQUENCIES = "frequencies = 100.0 ** (-torch.arange(0, 32, 2).float() / 32)"
ROTATED = """
angles = torch.arange(x.shape[0]).float()[:, None] * frequencies
u, v = x.chunk(2, -1)
return torch.cat((u * angles.cos() - v * angles.sin(), v * angles.cos() + u * angles.sin()), -1)
"""
DECAY = "decay = -torch.exp(self.wpe[0, :32])"
SCAN = """
steps = torch.tanh(x).abs() * decay
logs = steps.cumsum(0)
weights = torch.exp(logs[:, None] - logs[None]) * torch.ones(6, 6).tril()[:, :, None]
return (weights * x[None]).sum(1)
"""
RECURRENCE = """
state = torch.zeros(32)
rows = []
for t in range(6):
    state = state * torch.exp(torch.tanh(x[t]).abs() * decay) + x[t]
    rows.append(state)
return torch.stack(rows)
"""


def test_a_fault_in_a_table_of_constants_is_told_where_it_is_computed(tmp_path):
    wrong = FREQUENCIES.replace("arange(0, 32, 2)", "arange(0, 16)")
    cause, (a, b) = told(tmp_path, FREQUENCIES + ROTATED, wrong + ROTATED)
    assert "range(0, 16, 1) where Mine A has range(0, 32, 2)" in cause.text
    assert (cause.a_source, cause.source) == (line_of(a, FREQUENCIES), line_of(b, wrong))


@pytest.mark.parametrize("way", [SCAN, RECURRENCE])
def test_a_fault_beside_other_steps_is_told_as_the_fault(way, tmp_path):
    wrong = DECAY.replace("-torch", "torch")
    cause, (a, _) = told(tmp_path, DECAY + SCAN, wrong + way)
    assert "-x is left out, x = exp(" in cause.text
    assert cause.a_source == line_of(a, DECAY)


def test_other_steps_alone_are_no_fault(tmp_path):
    files = [written(tmp_path / str(n), DECAY + way) for n, way in enumerate((SCAN, RECURRENCE))]
    assert compare(*(exported(file, length=len(TOKENS)).path for file in files), TOKENS).parity


def test_a_part_of_a_product_is_told_at_the_split(tmp_path):
    split = "q, k = (x @ self.head[:64].T).split(32, -1)"
    cause, (a, _) = told(tmp_path, f"{split}\nreturn q.exp()", f"{split}\nreturn k.exp()")
    assert cause.a_source == line_of(a, split)
