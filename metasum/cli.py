"""The command line: the commands under one name, and how an error ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import traceback
from typing import NoReturn

import click

from metasum import __version__
from metasum.commands.benchmark import benchmark
from metasum.commands.few_shot import few_shot
from metasum.commands.listings import learners, methods, tasks
from metasum.commands.merge import merge
from metasum.commands.own_networks import compare_networks
from metasum.commands.runs import evaluate, meta_train, report, train
from metasum.commands.strangers import sum_
from metasum.commands.studies import compare_baselines, experiment
from metasum.commands.sweep import sweep
from metasum.config.flags import TolerantGroup
from metasum.errors import Interrupted, MetaSumError, StorageError, in_a_command, reason
from metasum.plain_text import plain
from metasum.results.stdout import kept_for_results


@click.group(cls=TolerantGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def metasum() -> None:
    """Train neural networks so that their weights can be added.

    \b
    Start here (no data, no network needed, about a minute):
      metasum train
    On real images (with mnist.npz and cifar10.npz in .data, or --download):
      metasum train --target mnist --support cifar10
    Against every other way of training and merging, in one table:
      metasum compare-baselines
    Can networks be added that never met? Every learner, all three steps:
      metasum experiment
    Networks of your own, from files, merged by every method:
      metasum compare-networks a.pt b.pt --model my_model.py:make --on a.npz,b.npz
    """  # noqa: D301 (click reads the backspace)


for command in (
    *(train, meta_train, sum_, evaluate, compare_baselines, experiment),
    *(merge, compare_networks, few_shot, sweep, report, tasks, learners, methods, benchmark),
):
    metasum.add_command(command)


def main() -> None:
    """Entry point: exit codes 0, 1 (failure), 2 (bad usage), 130 (interrupted); one line for an error."""
    if not _talks():  # of several that train together: the first one talks for all
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (to the process's end)
    try:
        with in_a_command(), _stdout():
            metasum(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        _fail(error.format_message(), 2, error)
    except Interrupted as error:
        if os.environ.get("WANDB_SWEEP_ID"):  # its agent ends runs that do badly, and gives up after a few failures
            _fail(str(error), 0, error)
        _fail(f"{error} Continue with: metasum {_again(sys.argv[1:])}", error.exit_code, error)
    except MetaSumError as error:
        _fail(str(error), error.exit_code, error)
    except (click.Abort, KeyboardInterrupt) as error:
        _fail(
            "interrupted; a run that was under way can be continued (`metasum train` with --resume).",
            Interrupted.exit_code,
            error,
        )
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}.", 1, error)
    except SystemExit as error:  # no command raises it: a plug-in or a package did
        file, line = traceback.extract_tb(error.__traceback__)[-1][:2]
        _fail(
            f"{file} ended the process in line {line}, with exit({error.code!r}); nothing came of the command.",
            1,
            error,
        )
    except BaseException as error:  # noqa: BLE001 (the last line of defence: one sentence, never a traceback)
        if _of_memory(error):
            _fail(f"there is not enough memory ({reason(error)}); try a smaller --width or --batch-size.", 1, error)
        _fail(f"{type(error).__name__}: {reason(error)} (METASUM_DEBUG=1 shows where).", 1, error)


LONGEST = 4000  # characters of a sentence
# How PyTorch says it where it has no type for it: on the CPU, on Metal, and of memory that CUDA itself asks for.
NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory", "CUDA error: out of memory")


def _of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory: by type, or by PyTorch's very words; others speak of memory, too."""
    torch = sys.modules.get("torch")  # not imported for an error that has nothing to do with it
    types = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, types) or (isinstance(error, RuntimeError) and any(w in str(error) for w in NO_MEMORY))


def _stdout() -> contextlib.AbstractContextManager[None]:
    """Where the result is for programs, stdout is for it alone: what plug-ins print goes to stderr."""
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    if "--json" not in own or {"--help", "-h", "--version"} & set(own):
        return contextlib.nullcontext()
    if sys.stdout is None:
        raise StorageError("there is no standard output for --json to write to.")
    return kept_for_results()


def _again(words: list[str]) -> str:
    """The command that goes on with an interrupted one: without --overwrite, and with --resume where there is one."""
    end = words.index("--") if "--" in words else len(words)  # what stands behind it is a sweep's trials'
    kept = [word for word in words[:end] if word.partition("=")[0] not in ("--resume", "--overwrite")]
    resume = ["--resume"] if words[0] in ("train", "meta-train") else []  # studies go on by themselves
    return shlex.join([*kept, *resume, *words[end:]])


def _talks() -> bool:
    """Whether this process is the one that talks, by what a launcher told it; true without a launcher."""
    ranks = [os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK")]
    return sys.argv[1:2] != ["train"] or "MASTER_ADDR" not in os.environ or all(rank in ("", "0") for rank in ranks)


def _fail(sentence: str, code: int, error: BaseException) -> NoReturn:
    if os.environ.get("METASUM_DEBUG") == "1" and not isinstance(error, SystemExit):
        raise error
    unheard = not _talks() and not isinstance(error, MetaSumError)  # of the others' sentences the first says each
    sentence = plain(" ".join(sentence[:LONGEST].splitlines()))
    stream = sys.__stderr__ if unheard else sys.stderr
    if stream is not None:  # without one, print would take stdout, which is a result's
        print(f"metasum: {sentence}", file=stream)
    sys.exit(code)
