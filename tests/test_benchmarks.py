"""The frame of `python -m benchmarks`: its list, its options, its table and its clock."""

import importlib
import json
import time

import pytest

from benchmarks import __main__ as front
from benchmarks.table import Table, in_turns


@pytest.mark.parametrize("name", front.NAMES)
def test_every_measurement_can_be_imported_and_says_what_it_does(name, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    assert f"python -m benchmarks {name}" in (module.__doc__ or "") and callable(module.main)
    with pytest.raises(SystemExit) as ended:
        front.main([name, "--help"])
    assert ended.value.code == 0 and f"python -m benchmarks {name}" in capsys.readouterr().out


def test_a_measurement_is_printed_and_written(tmp_path, capsys):
    front.main(["reinit", "--what", "sizes", f"--json={tmp_path}/new/sizes.json"])
    assert "size of glsr" in capsys.readouterr().out
    lines = json.loads((tmp_path / "new" / "sizes.json").read_text())["lines"]
    assert lines["size of glsr"]["K parameters"] == pytest.approx(1830, rel=0.01)  # Table 7: 1.83 M
    front.main([])
    assert "python -m benchmarks NAME" in capsys.readouterr().out


def test_what_does_not_exist_is_named(capsys):
    with pytest.raises(SystemExit, match="there is no benchmark 'steps'; choose one of step"):
        front.main(["steps"])
    with pytest.raises(SystemExit):
        front.main(["reinit", "--what", "size"])
    assert "There is no part 'size'; choose of sizes" in capsys.readouterr().err


def test_lists_may_have_commas():
    _, options = front.parse("gpu", ["--rows=device,ldeq", "--minutes=3"])
    assert options.rows == ("device", "ldeq") and options.minutes == 3
    _, options = front.parse("memory", ["--steps", "6", "16", "--rows", "implicit"])
    assert options.steps == (6, 16) and options.rows == ("implicit",)


def test_functions_are_timed_in_turns():
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.02)

    def fast():
        calls.append("fast")
        time.sleep(0.005)

    turns = in_turns({"slow": slow, "fast": fast}, rounds=3)
    assert calls == ["slow", "fast"] * 4  # one turn is not timed
    assert turns.median("slow") >= 0.02 and len(turns.seconds["fast"]) == 3
    ratio = turns.ratio("slow", "fast")
    assert ratio["least"] <= ratio["× fast"] <= ratio["most"] and ratio["× fast"] > 1
    assert turns.ratio("fast", "fast")["× fast"] == 1


def test_a_table_keeps_what_was_measured_before_it_broke(tmp_path):
    table = Table(tmp_path / "table.json")
    table.add("first", {"ms": 1.5, "details": {"not": "printed"}})
    table.add("second", {"ms": float("nan")})
    lines = json.loads((tmp_path / "table.json").read_text())["lines"]
    assert lines == {"first": {"ms": 1.5, "details": {"not": "printed"}}, "second": {"ms": None}}
