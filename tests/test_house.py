"""The walls of the house: what each folder of the package may import, and what its front door opens."""

import ast
import dataclasses
import importlib
from pathlib import Path

import pytest

from jaxlm import __main__ as front_door
from jaxlm import config as configs
from jaxlm import systems
from jaxlm.commands import options
from jaxlm.workdir import config_file

PACKAGE = Path(configs.__file__).parent
ROOT = {path.stem for path in PACKAGE.glob("[!_]*.py")} - {"training"} | {"jaxlm", "solvers"}
BELOW_DATA = {"root", "support", "face3d"}
BELOW_WORKDIR = {*BELOW_DATA, "networks", "video", "systems"}
BELOW_PREDICT = {*BELOW_WORKDIR, "data", "workdir"}
BELOW_EVALUATION = {*BELOW_PREDICT, "predict"}
# Folder -> what it may import, itself aside.
ALLOWED = {
    "root": set(),
    "networks": {"root"},
    "video": {"root"},
    "support": {"root"},
    "face3d": {"root", "support"},
    "data": BELOW_DATA,
    "systems": {"root", "networks", "face3d", "video", "support"},
    "workdir": BELOW_WORKDIR,
    "predict": BELOW_PREDICT,
    "evaluation": BELOW_EVALUATION,
    "export": BELOW_EVALUATION,
    "convert": BELOW_EVALUATION,
    "training": {*BELOW_EVALUATION, "evaluation"},
    "commands": {*BELOW_EVALUATION, "evaluation", "export", "convert", "training"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and path.parent.name != "configs")


def folder_of(module: str) -> str:
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    return "root" if name in ROOT else name


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, inside functions as well, but not for the type checker alone."""
    tree, found = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                inner = PACKAGE.parent / Path(*whole.split("."))
                found.add(whole if inner.is_dir() or inner.with_suffix(".py").exists() else node.module or "")
    return {name for name in found if name.split(".")[0] == "jaxlm"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_below_it(path):
    module = "jaxlm." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if path == PACKAGE / "__init__.py":
        return  # its imports on demand are by name
    folder = folder_of(module)
    for name in imports_of(path):
        other = folder_of(name)
        assert other == folder or other in ALLOWED[folder], f"{module} imports {name}, which stands above it"
        mine, theirs = module.split("."), name.split(".")
        if folder == other == "systems" and len(theirs) > 2 and (PACKAGE / "systems" / theirs[2]).is_dir():
            assert mine[2] == theirs[2], f"{module} imports {name}: systems do not know each other"


def test_every_folder_has_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {
        "shipped",
        "configs",
        "solvers",
        "__pycache__",
    }
    assert folders | {"root", "training"} == set(ALLOWED)
    for name in ALLOWED:
        if (PACKAGE / name).is_dir():
            assert ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())), (
                f"{name} has no docstring"
            )


@pytest.mark.parametrize("name", front_door.COMMANDS)
def test_a_command_has_options_and_a_main_that_python_can_call(name, capsys):
    module = importlib.import_module(f"jaxlm.commands.{front_door.COMMANDS[name]}")
    assert dataclasses.is_dataclass(module.Options) and module.Options.__dataclass_params__.frozen
    assert callable(module.main)
    with pytest.raises(SystemExit) as end:
        options.parse(module, name, ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and f"jaxlm {name}" in text
    if hasattr(module, "read_config"):
        assert "quickstart" in text and "--config.FIELD=VALUE" in text


def test_the_front_door_lists_every_command(capsys):
    front_door.main(argv=["--help"])
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in front_door.COMMANDS)
    files = {path.stem for path in (PACKAGE / "commands").glob("[!_]*.py")} - {"options"}
    assert files == set(front_door.COMMANDS.values())
    with pytest.raises(SystemExit, match="2"):
        front_door.main(argv=["trian"])
    assert "there is no command 'trian'; choose one of train, track." in capsys.readouterr().err


@pytest.mark.parametrize("name", configs.config_names())
def test_a_config_is_its_system_s_defaults_with_changes(name):
    config = configs.load_config_file(name)
    defaults = importlib.import_module(f"jaxlm.systems.{config.system}.settings").default_config()
    free = ("data.sources", "loss.options")
    assert keys(config, free) == keys(defaults, free)
    assert configs.load_config_file(f"{name}:smoke").train.num_steps < config.train.num_steps
    assert systems.completed(config).to_json() == config.to_json()
    with pytest.raises(AttributeError, match="learning_rat"):
        config.train.learning_rat = 1.0
    with pytest.raises(ValueError, match="There is no variant 'smok'; choose one of smoke"):
        configs.load_config_file(f"{name}:smok")


def keys(block, free, prefix=""):
    found = set()
    for key in block:
        name = f"{prefix}{key}"
        found.add(name)
        if name not in free and isinstance(block[key], configs.Block):
            found |= keys(block[key], free, f"{name}.")
    return found


def test_a_field_that_a_workdir_does_not_have_is_one_sentence(tmp_path):
    module = importlib.import_module("jaxlm.commands.evaluate")
    for field in ("nope", "nope.x", "data.sources.300w.root"):
        with pytest.raises(ValueError, match="does not fit the config"):
            options.parse(module, "eval", [f"--workdir={PACKAGE / 'shipped' / 'faces68'}", f"--config.{field}=1"])


def test_an_older_config_file_continues_its_own_workdir(tmp_path):
    config = configs.load_config_file("tddfa_rendered:smoke")
    with config.unlocked():
        config.meta.stream = True
        del config.augment.label_noise
    config_file.write_config(tmp_path, config)
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    config_file.check_workdir(tmp_path, config)


def test_a_config_of_an_earlier_version_is_completed():
    config = configs.load_config_file("tddfa_rendered:smoke")
    old = type(config)(config.to_dict())
    del old.augment.label_noise, old.video
    old.meta.stream = True
    whole = systems.completed(old)
    assert whole.augment.label_noise == 0.0 and whole.video.crop == "tddfa_landmarks" and "stream" not in whole.meta
    assert whole.data.sources.rendered.num_train == 48 and whole.loss.vertices == 100


class TestCommandLine:
    def parse(self, name, *words):
        return options.parse(importlib.import_module(f"jaxlm.commands.{front_door.COMMANDS[name]}"), name, list(words))

    def test_fields_of_a_config(self):
        given = self.parse("train", "--workdir=w", "--config=quickstart:smoke", "--config.train.num_steps", "12")
        assert given.workdir == "w" and given.config.train.num_steps == 12 and given.overrides == ("train.num_steps",)
        given = self.parse(
            "train", "--config.eval.sets=('a:test',)", "--config=configs/quickstart.py", "--workdir", "w"
        )
        assert given.config.eval.sets == ("a:test",) and given.config.train.num_steps == 1900
        given = self.parse("train", "--workdir=w", "--config=ldeq_300w", "--config.data.sources.300w.heldout=0.1")
        assert given.config.data.sources["300w"].heldout == 0.1

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--config=quickstart", "--config.train.num_stps=3"], "does not fit the config.*num_stps"),
            (["--config=quickstart", "--config.train.num_steps=many"], "does not fit the config"),
            (["--config=quickstrt"], "There is no config quickstrt; name a file or one of awing_300w"),
            ([], "--config is missing"),
            (["--config"], "--config needs a value"),
            (["--config=/nowhere/quickstart.py"], "There is no config /nowhere/quickstart.py"),
            (
                ["--config=quickstart:bad"],
                "^The command line does not fit the config: There is no variant 'bad'; choose",
            ),
        ],
    )
    def test_a_mistake_is_one_sentence(self, words, says):
        with pytest.raises(ValueError, match=says):
            self.parse("train", "--workdir=w", *words)

    def test_lists_and_booleans_as_they_were_written_before(self):
        given = self.parse("export", "--workdir=w", "--format=orbax,onnx", "--flip_average=true")
        assert given.format == ("orbax,onnx",) and given.flip_average
        given = self.parse("predict", "a.jpg", "clips", "--nooverlays", "--batch_size=4")
        assert given.inputs == ("a.jpg", "clips") and not given.overlays and given.batch_size == 4
        given = self.parse("predict", "--overlays=false", "a.jpg")
        assert not given.overlays
        given = self.parse("track", "--workdir=w", "--method=frame", "--method=rwr", "clip.mp4")
        assert given.method == ("frame", "rwr") and given.videos == ("clip.mp4",)
        given = self.parse("reconstruct", "--workdir=w", "--box=1,2,3,4", "p.jpg")
        assert given.box == ("1,2,3,4",) and given.files == ("p.jpg",)
        given = self.parse("train", "-workdir=w", "-config=a", "--config=quickstart", "--noconfig.eval.flip_average")
        assert given.workdir == "w" and given.config.eval.flip_average is False
        given = self.parse("train", "--config=ldeq_wflw", "--config.eval.flip_average", "--workdir=w")
        assert given.config.eval.flip_average is True
        given = self.parse("label-videos", "--workdirs=a,b", "--out=o", "clip1.mp4", "clip2.mp4")
        assert given.workdirs == ("a,b",) and given.videos == ("clip1.mp4", "clip2.mp4")
