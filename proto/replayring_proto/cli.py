"""The command `replayring`: finds the commands of each side by entry point and runs one.

A command is a module with `HELP`, `add_arguments(parser)` and `run(arguments) -> exit code`,
registered in pyproject.toml under "replayring.commands". So neither side imports the other.
`parser.set_defaults(stray="--option")` says what a word that comes without an option is meant for.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points, version

GROUP = "replayring.commands"


def main() -> int:
    """Runs the command named on the command line."""
    # Else gRPC's core has a line, of its own form, for each handshake that fails. Read at import.
    os.environ.setdefault("GRPC_VERBOSITY", "error")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        return run({entry.name: entry.value for entry in entry_points(group=GROUP)}, sys.argv[1:])
    except KeyboardInterrupt:
        print("replayring: interrupted", file=sys.stderr)
        # As what is interrupted ends, so that a script that runs it ends as well; but no traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT  # a container's first process is not ended by that


def run(commands: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Parses `arguments` and runs one of `commands`, which are given as module names."""
    parser = argparse.ArgumentParser(
        prog="replayring", description="Experience replay for learners and actors on many machines."
    )
    parser.add_argument(
        "--version", action="version", version=f"replayring {version('replayring')}"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    # A named command is imported alone; the others are needed only to list or suggest them.
    chosen = [arguments[0]] if arguments and arguments[0] in commands else sorted(commands)
    for name in chosen:
        module = importlib.import_module(commands[name])
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, parser=subparser)
    if not arguments:  # the usage alone would not say what there is to run
        parser.print_help(sys.stderr)
        parser.exit(2)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:  # which argparse would answer with the usage that names the commands alone
        asked: argparse.ArgumentParser = parsed.parser if len(chosen) == 1 else parser
        asked.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, asked, parsed)}")
    try:
        exit_code: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what is left goes at exit
        return 1
    return exit_code


def _meant(
    unknown: Sequence[str], parser: argparse.ArgumentParser, parsed: argparse.Namespace
) -> str:
    """Names the option that an unknown one was probably meant for, if one is like it."""
    stray = parser._option_string_actions.get(parser.get_default("stray"))
    if stray and getattr(parsed, stray.dest) is None and not unknown[0].startswith("-"):
        return f"; did you mean {stray.option_strings[0]} {unknown[0]}?"
    # Without their dashes: these alone would make short names like each other.
    known = [option[2:] for option in parser._option_string_actions if option.startswith("--")]
    for argument in unknown:
        name = argument.lstrip("-").partition("=")[0]
        if name != argument and (near := difflib.get_close_matches(name, known, 1)):
            return f"; did you mean --{near[0]}?"
    return ""
