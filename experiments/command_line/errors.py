"""Turn a user's mistake into one sentence and an exit code, and keep libraries quiet."""

import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps

from datamodules import DataError
from experiments.command_line.invocation import as_started

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, and one's share of it
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
# Warnings of Lightning and torch that do not hold for this project's way of training.
WITHOUT_MEANING = (
    ".*does not have many workers.*",
    ".*The number of training batches.*",
    ".*exists and is not empty.*",
    ".*`self.log\\('val/.*sync_dist=True.*",
    ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ".*Trying to infer the `batch_size`.*",
)
Main = Callable[[Sequence[str] | None], int]


class UserError(Exception):
    """A user's mistake, in one sentence that says what to do."""


@contextmanager
def as_user_error() -> Iterator[None]:
    """Report wrong values and files as the user's mistake.

    This stands around what opens and builds, not around training.
    """
    try:
        yield
    except OSError as problem:
        plain = str(problem).removeprefix(f"[Errno {problem.errno}] ")
        raise UserError(cannot_use(problem) or plain) from problem
    except ValueError as problem:
        raise UserError(str(problem)) from problem


def command(stopped: str) -> Callable[[Main], Main]:
    """Let a program's `main` answer mistakes with one sentence and exit code 2, and Ctrl-C with
    `stopped` and 130."""

    def decorate(main: Main) -> Main:
        @wraps(main)
        def answer(arguments: Sequence[str] | None = None) -> int:
            try:
                return main(arguments)
            except BrokenPipeError:  # the reader, such as `head`, has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
            except (UserError, DataError, OSError) as problem:
                sentence = cannot_use(problem) if isinstance(problem, OSError) else problem
                if not sentence:
                    raise
                print(as_started(f"error: {sentence}"), file=sys.stderr)
                return 2  # as a shell expects of a usage error
            except KeyboardInterrupt:
                print(f"\n{stopped}", file=sys.stderr)
                return 130

        return answer

    return decorate


def cannot_use(problem: OSError) -> str:
    """The sentence for a full disk or a folder without rights; empty for other problems."""
    if problem.errno in DISK_FULL:
        return (
            f"nothing more can be written ({problem.strerror}); "
            "make room, and give the command again"
        )
    if problem.errno in NOT_ALLOWED:
        return (
            f"{problem.filename} cannot be used ({problem.strerror}); "
            "change its rights, or give another folder"
        )
    return ""


def run_main(main: Callable[[], int]) -> int:
    """Run main and return its exit code; a second Ctrl-C prints no traceback."""
    # A shell that starts a program in the background lets it ignore Ctrl-C: listen to it again.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except KeyboardInterrupt:  # while the first one was being answered
        return 130
    finally:
        # Python still waits for threads that write; a further Ctrl-C ends it at once.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def quiet() -> None:
    """Silence Lightning's tips, and the warnings that do not hold here."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in WITHOUT_MEANING:
        warnings.filterwarnings("ignore", message)


@contextmanager
def silenced_stderr() -> Iterator[None]:
    """Hide what libraries, such as torch's profiler, print past Python."""
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as kept, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept.fileno(), 2)
