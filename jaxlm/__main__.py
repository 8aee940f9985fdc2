"""The front door: `jaxlm NAME …` and `python -m jaxlm NAME …` run the program NAME of `jaxlm.commands`."""

import contextlib
import difflib
import importlib
import sys
from collections.abc import Sequence

# Group -> command -> (module of jaxlm.commands, what it does).
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Train and evaluate": {
        "train": ("train", "trains an experiment"),
        "eval": ("evaluate", "evaluates a workdir: tables, JSON, plots"),
        "ablation": ("ablation", "trains the rows of a paper's table"),
        "choose": ("choose", "chooses a learning rate for each row of a table"),
        "compare": ("compare", "compares models on one data set, with their costs"),
        "robustness": ("robustness", "evaluates with rough boxes"),
        "dense": ("dense", "measures dense 3D errors"),
        "calibrate": ("calibrate", "measures what scores mean: expected errors, faces or not"),
    },
    "Find landmarks": {
        "predict": ("predict", "finds faces and landmarks in pictures, videos, a camera"),
        "models": ("models", "lists the models inside the package"),
        "track": ("track", "compares methods on a clip: frame by frame, RwR, filters"),
        "reconstruct": ("reconstruct", "makes 3D faces: meshes, depth, PNCC, texture, pose"),
        "label-videos": ("label_videos", "labels videos by an ensemble of models"),
    },
    "Look at data": {
        "contact-sheet": ("contact_sheet", "draws what training sees"),
        "detector-boxes": ("detector_boxes", "measures how a detector's boxes are distributed"),
        "cache": ("cache", "lists prepared data sets and removes old ones"),
        "fit": ("fit", "fits a face model to 2D landmarks"),
    },
    "Move models": {
        "export": ("export", "writes parameters, StableHLO, ONNX"),
        "convert": ("convert", "reads released weights of other code"),
    },
    "Draw the papers' figures": {
        "figures": ("figures", "losses and heatmaps of Adaptive Wing"),
        "meta-choices": ("meta_choices", "which loss the meta-joint optimisation followed"),
    },
}
COMMANDS = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}


def usage() -> str:
    """The commands in their groups, a line each."""
    lines = ["Face alignment in JAX. Usage: jaxlm COMMAND …; jaxlm COMMAND --help says more.", ""]
    for group, commands in GROUPS.items():
        lines += [group, *(f"  {name:<16}{text}" for name, (_, text) in commands.items()), ""]
    lines += [
        "Before the command: --no-cache keeps no compiled programs in ~/.cache/jaxlm/compiled,",
        "--file-limit=8 reads files that hold up to 8 GiB (1 without it),",
        "--system=my_package.my_system lets configs name a system of your own.",
        "",
    ]
    return "\n".join(lines)


def main(command: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Runs a command; a user's mistake ends the program with one sentence and exit status 2.

    Args:
        command: its name; the first word of the command line where it is None.
        argv: the words after it; those of the command line where it is None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    keep, own = True, []
    limit: str | None = None
    while words and (words[0] == "--no-cache" or words[0].startswith(("--system=", "--file-limit="))):
        name, _, value = words.pop(0).partition("=")
        keep = keep and name != "--no-cache"
        own += [value] if name == "--system" else []
        limit = value if name == "--file-limit" else limit
    if command is None:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
            return
        if words[0] == "--version":
            import jaxlm

            print(jaxlm.__version__)
            return
        command, *words = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS) or [*COMMANDS]
        print(f"Error: there is no command {command!r}; choose one of {', '.join(near)}.", file=sys.stderr)
        sys.exit(2)
    if limit is not None:
        from jaxlm.support.limits import set_file_limit

        try:
            set_file_limit(limit)  # before OpenCV is imported
        except ValueError as error:
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(2)
    from jaxlm.commands import options
    from jaxlm.support.program import keep_compiled_programs, one_sentence, quiet_logs

    quiet_logs()
    if keep:
        keep_compiled_programs()
    with one_sentence():
        if own:
            from jaxlm import systems

            systems.SYSTEMS.update({name: name for name in own})
        module = importlib.import_module(f"jaxlm.commands.{COMMANDS[command]}")
        with contextlib.ExitStack() as stack:
            if any("://" in word for word in words):
                from jaxlm.support.remote import local_words

                words = local_words(command, words, stack)
            module.main(options.parse(module, command, words))


if __name__ == "__main__":
    main()
