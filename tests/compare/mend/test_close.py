"""Whether the causes are all there is."""

from __future__ import annotations

import pytest
from own_files import exported, written

from opdiff.compare.diagnose import compare

TOKENS = (1, 5, 3, 7, 2, 9)
# A value that is huge where nothing reads it, so that its norm lets any other difference pass for rounding.
PADDED = """
padded = tap("padded", torch.cat((x * {factor}, x.new_full((1, 32), 1e30))), axes="row channel")
return padded[:-1]
"""


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_other_logits_are_never_called_the_same(factor, tmp_path):
    files = [written(tmp_path / name, PADDED.format(factor=by)) for name, by in (("first", 1.0), ("second", factor))]
    result = compare(*(exported(file).path for file in files), TOKENS)
    assert result.parity == (factor == 1.0)
    assert result.root_causes == ()
    assert result.closed.complete == (factor == 1.0)
    assert ("no region is at fault by itself" in result.closed.text) == (factor != 1.0)
