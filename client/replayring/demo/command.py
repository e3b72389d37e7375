"""`replayring demo`: a policy learns from experience that crosses the wire.

Starts a server, some actors and a learner, a process each; trains SAC on Gymnasium's pendulum;
shows how that is going; saves a picture of the learning curve.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import random
import sys
import tempfile
from pathlib import Path

from replayring.demo import connecting
from replayring.demo.experience import ENVIRONMENT
from replayring.demo.plot import Evaluation, save_learning_curve
from replayring.demo.progress import Display, clock
from replayring.demo.session import DemoError, Session, Settings, Stopped
from replayring.demo.supervisor import StopSignals, Supervisor
from replayring_proto.argument_types import natural, positive
from replayring_proto.errors import ReplayRingError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train a policy with a server, actors and a learner"

REQUIRED_MODULES = ("gymnasium", "torch", "matplotlib")
PICTURE = "learning-curve.png"
FAILURE, MISUSE, INTERRUPTED = 1, 2, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the demo's options on this parser."""
    parser.add_argument(
        "--steps",
        type=positive,
        default=8_000,
        help="environment steps, over all actors (%(default)s)",
    )
    parser.add_argument("--actors", type=positive, default=2, help="actor processes (%(default)s)")
    parser.add_argument("--seed", type=natural, help="of networks and actors (drawn at random)")
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="use the server there instead of starting one"
    )
    parser.add_argument(
        "--role",
        choices=("all", "actor", "learner"),
        default="all",
        help="run only the actors, or only the learner, with the server at --address (%(default)s)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the training whose state the server has, if any",
    )
    parser.add_argument(
        "--device",
        help='where the learner computes, as torch names it: "cuda", say (the CPU, where networks '
        "this small are fastest)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("replayring-demo"),
        metavar="DIR",
        help="where the picture and the processes' logs go (./%(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the server that is started keeps its data (a temporary directory)",
    )
    connecting.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0 when training is done and the picture saved, 130 after Ctrl-C (128 and the number after
        another signal), 2 for options that contradict each other, 1 for any other failure.
    """
    if problem := _contradiction(args):
        return _fail(problem, MISUSE)
    if missing := _missing_modules():
        return _fail(
            f'the demo needs {", ".join(missing)}: pip install "replayring[demo]"', FAILURE
        )
    if args.device is not None and (problem := _no_device(args.device)):
        return _fail(problem, MISUSE)
    try:
        return _run(args)
    except Stopped as stopped:
        print("stopped")
        return 128 + stopped.number
    except KeyboardInterrupt:  # while the picture was being drawn
        return INTERRUPTED
    except (DemoError, OSError) as error:
        return _fail(str(error), FAILURE)


def _run(args: argparse.Namespace) -> int:
    seed = random.randrange(2**16) if args.seed is None else args.seed
    args.output.mkdir(parents=True, exist_ok=True)
    _print_heading(args, seed)
    display = Display(sys.stdout, args.steps)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        data_dir = args.data_dir or Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="replayring-demo-", ignore_cleanup_errors=True)
            )
        )
        connection = tuple(connecting.passed_on(args))
        settings = Settings(
            args.role,
            args.steps,
            args.actors,
            seed,
            args.address,
            data_dir,
            connection,
            args.resume,
            args.device,
        )
        stack.callback(display.close)
        supervisor = stack.enter_context(Supervisor(args.output))
        evaluations = Session(settings, supervisor, display, stop).run()
    _finish(args.output, evaluations, seed)
    return 0


def _print_heading(args: argparse.Namespace, seed: int) -> None:
    actors = f"{args.actors} actor{'s' if args.actors > 1 else ''}"
    if args.role == "learner":
        actors = "actors elsewhere"
    if args.role == "actor":
        print(f"{ENVIRONMENT}: {actors} for the server on {args.address}; Ctrl-C ends this")
        return
    print(f"SAC on {ENVIRONMENT}: {args.steps:,} steps, {actors}, seed {seed}")


def _finish(output: Path, evaluations: list[Evaluation], seed: int) -> None:
    last = evaluations[-1]
    summary = f"{last.steps:,} steps in {clock(last.seconds)}, mean return {last.mean_return:.0f}"
    print(summary)
    picture = (output / PICTURE).resolve()
    save_learning_curve(picture, evaluations, f"SAC on {ENVIRONMENT}, seed {seed}: {summary}")
    print(f"learning curve: {picture}")


def _contradiction(args: argparse.Namespace) -> str | None:
    if args.role != "all" and args.address is None:
        return f"--role {args.role} needs --address: the server that the other machines use"
    if args.role == "actor" and args.device is not None:
        return "--device is for the learner; actors compute on the CPU"
    if args.data_dir is not None and args.address is not None:
        return "--data-dir is for a server that the demo starts; with --address it starts none"
    if args.address is None and (given := connecting.passed_on(args)):
        return f"{given[0]} is for a server elsewhere, and needs --address"
    return None


def _no_device(device: str) -> str | None:
    """Why the learner cannot compute there, if so; torch is asked only if there is a choice."""
    from replayring._device import as_device

    try:
        as_device(device)
    except ReplayRingError as error:
        return str(error)
    return None


def _missing_modules() -> list[str]:
    return [name for name in REQUIRED_MODULES if importlib.util.find_spec(name) is None]


def _fail(message: str, code: int) -> int:
    print(f"replayring demo: {message}", file=sys.stderr)
    return code
