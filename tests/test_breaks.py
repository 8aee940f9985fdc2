import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import breaks  # noqa: E402


@pytest.mark.parametrize("one", breaks.BREAKS, ids=lambda one: one.name)
def test_a_break_still_finds_its_place_and_its_tests(one):
    """`scripts/breaks.py` itself takes minutes; that it can be run is seen at once."""
    text = (ROOT / one.file).read_text()
    assert text.count(one.old) == 1 and one.new != one.old
    for test in one.tests.split():
        file, *names = test.split("::")
        source = (ROOT / file).read_text()
        assert all(name.split("[")[0] in source for name in names), test
