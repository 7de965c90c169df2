"""`operant COMMAND`: the table of commands, and how their errors reach a person."""

import codecs
import importlib
import io
import os
import sys

COMMANDS = {
    "align": "the whole pipeline: pretrain, SFT, reward model, PPO, PPO-ptx, DPO, and a report",
    "pretrain": "train a language model from scratch on plain text",
    "sft": "fine-tune a model on demonstrations",
    "reward": "train a reward model on comparisons, rankings or thumbs",
    "rlhf": "improve a model by PPO against a reward model or a Python function",
    "rloo": "the same with a leave-one-out baseline in place of a value function",
    "grpo": "the same with group-relative advantages",
    "dpo": "improve a model directly on comparisons",
    "generate": "sample responses; with a reward model, the best of n",
    "evaluate": "return of a trained policy, accuracy of a reward model, or win rate of one model over another",
    "bandit": "compare bandit algorithms: greedy, UCB, Thompson sampling and others, many runs at once",
    "solve": "the best policy of a known model, with a proven bound on its values",
    "learn": "learn to act from samples: Q-learning, SARSA and their kin, with tables or features",
    "mdp": "look at a known model, or write it in another form",
    "train": "learn to act in an environment with a neural network: PPO and its kin, with presets",
    "watch": "see an episode of a trained policy, as a video or in the terminal",
    "report": "one HTML page for one run or several side by side",
}
ONE_THREAD = ("train", "watch")
"""Commands whose products of matrices are too small to be shared by threads."""
NO_MEMORY = ("can't allocate memory", "out of memory")
"""How PyTorch says it."""
PLAIN = {"←": "<", "→": ">", "↑": "^", "↓": "v", "↔": "-", "·": ".", "█": "#", "±": "+-", "÷": "/", "…": "..."}
"""Signs for outputs that are not Unicode."""


def usage() -> str:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return (
        "Operant: reinforcement learning from bandits to RLHF.\n\n"
        f"usage: operant COMMAND [options]\n\n{table}\n\n"
        "operant COMMAND --help lists and explains a command's options. Start with: operant align --out runs/demo"
    )


def main(argv: list[str] | None = None) -> None:
    """Run one command. Exit code 2 and one message for bad input, 1 for a run that diverged."""
    _print_anywhere()
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from operant import __version__

        print(__version__)
        return
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "operant --help lists the commands"
        _fail(f"there is no command {name!r}; {hint}", 2)
    if name in ONE_THREAD:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy and SciPy are loaded, so before that
    from operant.core.errors import Diverged, InputError

    try:
        module = importlib.import_module(f"operant.cli.{name}")
        from operant.cli.options import parse

        kind, preset = module.options(rest) if hasattr(module, "options") else (module.Options, None)
        options, resume = parse(kind, name, rest, preset)
        module.run(options, resume)
        sys.stdout.flush()
    except InputError as error:
        _fail(str(error), 2)
    except Diverged as error:
        _fail(str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        _fail(
            f"there is not enough memory ({error}): ask for less at once, such as fewer runs, a shorter horizon, a "
            "smaller batch or a smaller model",
            2,
        )
    except KeyboardInterrupt:
        _fail("interrupted; a run goes on with --resume", 130)
    except BrokenPipeError:  # whoever read the output has gone; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _print_anywhere() -> None:
    """Where the output knows no such signs, such as in ASCII, plain ones take their place."""
    codecs.register_error("operant", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="operant")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _fail(message: str, code: int) -> None:
    print(f"operant: {' '.join(message.splitlines())}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
