"""The command line of a program: its options by a dataclass, `--config` by ml_collections."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_type_hints

import tyro
from absl import flags
from ml_collections import config_flags

from jaxlm.config import Config, config_names, find_config_file
from jaxlm.workdir import config_file

# Files and folders that are named without an option.
Inputs = tyro.conf.Positional[tuple[str, ...]]
# A field that `--config` fills, not an option of its own.
FromConfig = Annotated[Any, tyro.conf.Suppress]


def parse(module: ModuleType, name: str, argv: Sequence[str]) -> Any:
    """The options of a command.

    Args:
        module: of the command: a dataclass `Options`, and `read_config` where the command takes `--config`:
            `config_of_file` or `config_of_workdir`.
        name: of the command.
        argv: of the command line, without the program and the command.

    Raises:
        ValueError: for a config or a field of it that does not exist.
    """
    read_config: Callable[[Any, Sequence[str]], dict[str, Any]] | None = getattr(module, "read_config", None)
    words, rest = _split(argv) if read_config else ([], list(argv))
    options = tyro.cli(
        module.Options,
        prog=f"jaxlm {name}",
        description=_description(module, read_config is not None),
        args=_as_tyro(module.Options, rest),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if read_config:
        options = dataclasses.replace(options, **read_config(options, words))
    return options


def config_of_file(options: Any, words: Sequence[str]) -> dict[str, Any]:
    """The fields `config` and `overrides` of a command that works on an experiment.

    Raises:
        ValueError: if there is no `--config`, or it or a field of it does not exist.
    """
    del options
    if not words or not words[0].startswith("--config="):
        raise ValueError(f"--config is missing: name a file or one of {', '.join(config_names())}.")
    file = find_config_file(words[0].partition("=")[2])
    words = ["jaxlm", f"--config={file}", *words[1:]]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    return _parsed(values, holder, words)


def config_of_workdir(options: Any, words: Sequence[str]) -> dict[str, Any]:
    """The fields `config` and `overrides` of a command that works on `options.workdir`, whose own config it is.

    A `--config` is only compared with the workdir's model.

    Raises:
        ValueError: if it is another model, or a field does not exist.
    """
    workdir = Path(options.workdir).expanduser()
    config = config_file.load_config(workdir)
    if words and words[0].startswith("--config="):
        given = config_of_file(None, words[:1])["config"]
        config_file.check_same_model(config, given, workdir)
        words = words[1:]
    words = ["jaxlm", *words]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)  # pyright: ignore
    return _parsed(values, holder, words)


def _parsed(values: flags.FlagValues, holder: Any, words: Sequence[str]) -> dict[str, Any]:
    try:
        values(list(words))
        config: Config = holder.value
    except (AttributeError, KeyError, TypeError, ValueError, flags.Error, SyntaxError) as error:
        message = " ".join(str(error.args[0] if error.args else error).split())
        raise ValueError(f"The command line does not fit the config: {message}") from None
    return {"config": config, "overrides": tuple(config_flags.get_override_values(values["config"]))}


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--config=…` first and its fields after it, and the other words."""
    words, rest, pending = [], [], ""
    for word in argv:
        if pending:
            words.append(f"{pending}={word}")
            pending = ""
        elif word.startswith("--config") and (word == "--config" or word[8] in "=."):
            if "=" in word:
                words.append(word)
            else:
                pending = word
        else:
            rest.append(word)
    if pending:
        raise ValueError(f"{pending} needs a value, as in {pending}=…")
    words = [word if word.startswith("--config=") else _quoted(word) for word in words]
    return sorted(words, key=lambda word: not word.startswith("--config=")), rest


def _quoted(word: str) -> str:
    """--config.data.sources.300w.heldout=… as ml_collections takes it: names that are no identifiers in brackets."""
    field, equals, value = word.partition("=")
    names = field.removeprefix("--config.").split(".")
    return "--config" + "".join(f".{n}" if n.isidentifier() else f"['{n}']" for n in names) + equals + value


def _as_tyro(options: type, argv: Sequence[str]) -> list[str]:
    """Words with absl's spelling of booleans in tyro's: --nofield and --field=false become --no-field."""
    booleans = {name for name, kind in get_type_hints(options).items() if kind is bool}
    words = []
    for word in argv:
        name, _, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if word.startswith("--") and name in booleans and value.lower() in ("true", "false", "1", "0"):
            words.append(f"--{'' if value.lower() in ('true', '1') else 'no-'}{name.replace('_', '-')}")
        elif word.startswith("--no") and name.removeprefix("no") in booleans:
            words.append(f"--no-{name.removeprefix('no').replace('_', '-')}")
        else:
            words.append(word)
    return words


def _description(module: ModuleType, has_config: bool) -> str:
    # The help keeps a line of code as it is where an empty line stands before it.
    text = re.sub(r"\n( {4}\S)", r"\n\n\1", (module.__doc__ or "").strip())
    if has_config:
        rows = "\n".join(f"    {name:<16}{line}" for name, line in config_names().items())
        text += (
            "\n\n--config=NAME[:VARIANT] names an experiment, a file or one of these, and --config.FIELD=VALUE changes "
            f"a field of it:\n\n{rows}"
        )
    return text
