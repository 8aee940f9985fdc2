"""What the documentation says works: its commands parse, its links lead somewhere, its code runs."""

import functools
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from jaxlm import __main__ as front_door
from jaxlm import config as configs
from jaxlm.commands import options
from jaxlm.predict import model

ROOT = Path(__file__).parent.parent
# Names in examples that stand for the reader's own files and commands.
YOURS = ("--config=my_faces.py", "count")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    """(file, command) of every line of the documentation, the configs and the notebooks that calls `jaxlm`."""
    texts = {path: path.read_text() for path in PAGES}
    texts |= {path: path.read_text() for path in sorted((ROOT / "configs").glob("*.py"))}
    texts |= {path: (importlib.import_module(f"jaxlm.commands.{path.stem}").__doc__ or "") for path in modules()}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = []
    for path, text in texts.items():
        text = text.replace("\\\n", " ")
        if path.suffix == ".md":
            text = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.S | re.M))
        lines = [
            line.strip() for line in text.splitlines() if re.match(r"\s*(jaxlm|python (train|eval)\.py) [a-z-]", line)
        ]
        found += [
            (path.name, command) for command in lines if "…" not in command and not set(YOURS) & set(command.split())
        ]
    return found


def modules() -> list[Path]:
    return [ROOT / "jaxlm" / "commands" / f"{name}.py" for name in front_door.COMMANDS.values()]


@pytest.mark.parametrize(("file", "command"), commands())
def test_a_documented_command_fits_its_options_and_its_config(file, command, monkeypatch):
    words = shlex.split(command.replace("$BOX", ""), comments=True)
    words = ["jaxlm", Path(words[1]).stem, *words[2:]] if words[0] == "python" else words
    if words[2:] == ["--help"]:
        return
    assert words[1] in front_door.COMMANDS, f"{file}: there is no command {words[1]}"
    monkeypatch.setattr(model, "config_of_model", lambda workdir: trained(str(workdir)))
    module = importlib.import_module(f"jaxlm.commands.{front_door.COMMANDS[words[1]]}")
    given = options.parse(module, words[1], words[2:])
    if words[1] == "ablation":
        assert given.table in module.TABLES
        assert not set(module.split_commas(given.rows)) - set(module.TABLES[given.table].rows)
        for field in given.overrides:
            module.check_free(field, given.table)


def measurements() -> list[tuple[str, str]]:
    """(page, command) of every call of `python -m benchmarks` in the documentation."""
    calls = re.compile(r"python -m benchmarks ([a-z][^`\n]*)")
    return [(page.name, call) for page in PAGES for call in calls.findall(page.read_text())]


@pytest.mark.parametrize(("page", "command"), measurements())
def test_a_documented_measurement_fits_its_options(page, command):
    name, *words = shlex.split(command)
    assert name in benchmarks.NAMES, f"{page}: there is no benchmark {name}"
    benchmarks.parse(name, [word for word in words if not word.startswith("--json=")])


@functools.cache
def trained(workdir: str):
    """A config such as the workdir of that name would have."""
    kinds = {"tddfa": "tddfa_300wlp", "wflwv": "ldeq_wflwv", "300w": "ldeq_300w", "wflw": "ldeq_wflw"}
    return configs.load_config_file(next((name for key, name in kinds.items() if key in workdir), "quickstart"))


def test_there_are_commands_to_check():
    assert len(commands()) > 100 and len(measurements()) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_in_the_text_exist(page):
    for name in re.findall(r"`jaxlm ([a-z][a-z-]*)", page.read_text()):
        assert name in front_door.COMMANDS, f"{page.name}: there is no command {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        assert not target.startswith("http"), f"{page.name}: {target} cannot be checked here"
        assert (page.parent / file).exists(), f"{page.name}: {target} does not exist"
        assert file or anchor in headings, f"{page.name}: there is no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_prose_is_narrow_enough_to_read(page):
    code = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        code ^= line.startswith("```")
        if not code and not line.startswith(("|", "!", "    ")) and "](" not in line:
            assert len(line) <= 100, f"{page.name}, line {number} has {len(line)} columns"


def test_the_readme_s_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
