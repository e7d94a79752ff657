"""What a user's code raises is told in one line, with his own line."""

from __future__ import annotations

import pytest
from own_files import HEAD, exported, line_of, written

from opdiff.graphs.errors import InputError

BODIES = {
    "key": ('return {}["no such key"]  # here', "KeyError: 'no such key'"),
    "attribute": ("return self.no_such_thing(x)  # here", "no_such_thing"),
    "inside of torch": ("return x @ torch.ones(7)  # here", "RuntimeError"),
    "assertion without a word": ("raise AssertionError  # here", "AssertionError ("),
    "by a tensor's values": ("return x if x.sum() > 0 else -x  # here", "choose with torch.where"),
    "tap marked twice": ('return tap("embed", x, axes="token channel")  # here', "tap embed: marked twice"),
    "in a function of the standard library": ("import json\nreturn json.loads('{')  # here", "JSONDecodeError"),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_forward_raises_is_told_with_the_variants_name_and_the_users_line(name, tmp_path):
    body, words = BODIES[name]
    path = written(tmp_path, body)
    with pytest.raises(InputError) as caught:
        exported(path)
    text = str(caught.value)
    assert text.startswith("variant Mine: ")
    assert words in text
    assert f"({line_of(path, '# here')})" in text
    assert "\n" not in text
    assert not (tmp_path / "out" / "Mine.onnx").exists()


BUILDERS = {
    "key": ('return {}["no such key"]  # here', "cannot be built: KeyError: 'no such key'"),
    "a tensor that is not there": ('return checkpoint["blk.7.attn_q.weight"]  # here', "no tensor blk.7.attn_q.weight"),
    "in torch": ("return nn.Linear(-1, 3)  # here", "cannot be built: RuntimeError"),
    "exit": ("raise SystemExit(3)  # here", "cannot be built: SystemExit: 3"),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_what_a_builder_raises_is_told_with_the_users_line(name, tmp_path):
    body, words = BUILDERS[name]
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}\ndef Mine(checkpoint):\n    {body}\n")
    with pytest.raises(InputError) as caught:
        exported(path)
    text = str(caught.value)
    assert text.startswith("variant Mine: ")
    assert words in text
    assert f"({line_of(path, '# here')})" in text


@pytest.mark.parametrize(
    ("text", "line", "words"), [("x = 1\ndef (", 2, "SyntaxError"), ("\n\n{}['a']", 3, "KeyError: 'a'")]
)
def test_what_a_file_raises_while_it_is_imported_is_told_with_its_line(text, line, words, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        exported(path)
    assert words in str(caught.value)
    assert f"({path}:{line})" in str(caught.value)
