"""The command line of a program: its options by a dataclass, `--config` by ml_collections."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_origin, get_type_hints

import tyro
from absl import flags
from ml_collections import config_flags

from jaxlm.config import Config, config_names, find_config_file
from jaxlm.schemes import self_contained
from jaxlm.workdir import config_file

# Files and folders that are named without an option.
Inputs = tyro.conf.Positional[tuple[str, ...]]
# A field that `--config` fills, not an option of its own.
FromConfig = Annotated[Any, tyro.conf.Suppress]


def parse(module: ModuleType, name: str, argv: Sequence[str], program: str = "jaxlm") -> Any:
    """The options of a command.

    Args:
        module: of the command: a dataclass `Options`, and `read_config` where the command takes `--config`:
            `config_of_file` or `config_of_workdir`.
        name: of the command.
        argv: of the command line, without the program and the command.
        program: that has the command.

    Raises:
        ValueError: for a config or a field of it that does not exist.
    """
    read_config: Callable[[Any, Sequence[str]], dict[str, Any]] | None = getattr(module, "read_config", None)
    words, rest = _split(argv) if read_config else ([], list(argv))
    options = tyro.cli(
        module.Options,
        prog=f"{program} {name}",
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
    words = [f"--config={find_config_file(words[0].partition('=')[2])}", *words[1:]]
    return _parsed(config_flags.DEFINE_config_file, words)


def config_of_workdir(options: Any, words: Sequence[str]) -> dict[str, Any]:
    """The fields `config` and `overrides` of a command that works on `options.workdir`, whose own config it is.

    A `--config` is only compared with the workdir's model.

    Raises:
        ValueError: if it is another model, or a field does not exist.
    """
    from jaxlm.predict.model import config_of_model  # what needs no model starts faster without it

    workdir = Path(options.workdir).expanduser()
    config = config_of_model(options.workdir)
    if words and words[0].startswith("--config="):
        given = config_of_file(None, words[:1])["config"]
        config_file.check_same_model(config, given, workdir)
        words = words[1:]
    define: Any = functools.partial(config_flags.DEFINE_config_dict, config=config)  # pyright: ignore[reportArgumentType]
    return _parsed(define, words)


def _parsed(define: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """The fields `config` and `overrides` of ml_collections' flag of this definition."""
    argv, values = ["jaxlm", *words], flags.FlagValues()
    try:
        holder = define("config", flag_values=values, sys_argv=argv)
        values(argv)
        config: Config = holder.value
        if "scheme" in config:
            config.scheme = self_contained(config.scheme)
    except (AttributeError, KeyError, TypeError, ValueError, flags.Error, SyntaxError) as error:
        # A mistake in a config file's own code comes with its traceback, of which the last line says what is wrong;
        # a KeyError's is the representation of its text.
        message = str(error.args[0] if error.args else error).rpartition("ValueError: ")[2]
        message = (
            re.sub(r"^.*KeyError: ", "", message, flags=re.DOTALL).strip("\"'").replace("\\n", ". ").replace("\\", "")
        )
        raise ValueError(f"The command line does not fit the config: {' '.join(message.split())}") from None
    return {"config": config, "overrides": tuple(config_flags.get_override_values(values["config"]))}


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The last `--config=…` first and its fields after it, and the other words."""
    files, fields, rest, words = [], [], [], list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        name = name if name.startswith("--") else f"-{name}"  # absl takes one dash as well
        if not re.fullmatch(r"--(no)?config(\..*)?", name):
            rest.append(word)
            continue
        if not equals and words and not words[0].startswith("-"):
            equals, value = "=", words.pop(0)
        if name == "--config":
            if not equals:
                raise ValueError("--config needs a value, as in --config=quickstart.")
            files.append(f"--config={value}")
        else:
            fields.append(_quoted(name) + equals + value)
    return [*files[-1:], *fields], rest


def _quoted(name: str) -> str:
    """--config.data.sources.300w.heldout as ml_collections takes it: names that are no identifiers in brackets."""
    flag, *names = name.split(".")
    return flag + "".join(f".{n}" if n.isidentifier() else f"['{n}']" for n in names)


def _as_tyro(options: type, argv: Sequence[str]) -> list[str]:
    """Words as tyro takes them, of words as absl takes them, too.

    Absl has -field, --nofield and --field=false. A list in one word, --field=a,b, goes behind all other words: tyro
    would take those for further items.
    """
    kinds = get_type_hints(options)
    words, lists = [], []
    for word in argv:
        if re.match(r"-[A-Za-z_]{2}", word):
            word = f"-{word}"
        name, equals, value = word.removeprefix("--").partition("=")
        field = name.replace("-", "_")
        negated = field.removeprefix("no_").removeprefix("no")
        if not word.startswith("--"):
            words.append(word)
        elif kinds.get(field) is bool and value.lower() in ("true", "false", "1", "0"):
            words.append(f"--{'' if value.lower() in ('true', '1') else 'no-'}{name}")
        elif kinds.get(negated) is bool and field != negated:
            words.append(f"--no-{negated.replace('_', '-')}")
        elif equals and get_origin(kinds.get(field)) is tuple:
            lists.append(word)
        else:
            words.append(word)
    return [*words, *lists]


def _description(module: ModuleType, has_config: bool) -> str:
    # The help joins the lines of a paragraph, but not the items of a list.
    text = re.sub(r"\n(?: {4})?(jaxlm )", r"\n* \1", (module.__doc__ or "").strip())
    if has_config:
        rows = "\n".join(f"    {name:<16}{line}" for name, line in config_names().items())
        text += (
            "\n\n--config=NAME[:VARIANT] names an experiment, a file or one of these, and --config.FIELD=VALUE changes "
            f"a field of it:\n\n{rows}"
        )
    return text
