"""What the documentation names exists, and what it derives is true."""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import shlex
import tomllib
import typing
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import operant
from operant.cli import evaluate
from operant.cli.algorithms import ALGORITHMS
from operant.cli.main import COMMANDS
from operant.cli.options import name_lambda, parse
from operant.cli.train import options_of
from operant.core.divergences import kl_estimate
from operant.core.losses import bradley_terry_loss, dpo_loss, policy_gradient_loss
from operant.text.data import load

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
EQUATIONS = (DOCS / "equations.md").read_text("utf-8")
COMMON_FLAGS = {"--config", "--resume", "--help"}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)+)`")
NAME = re.compile(r"\[`((?:core|networks|mdp|bandits|envs|text|algorithms|experiment|cli)(?:\.\w+)+)`\]\(([^)]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w_?")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Links


@cache
def headings(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", path.read_text("utf-8"))
    found = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(page: Path, text: str) -> list[str]:
    """Links that lead to no file or heading. Addresses on the web are not followed."""
    broken = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text("utf-8")) == []


def test_a_broken_link_is_found():
    text = "[a](nowhere.md) [b](notation.md#symbols) [c](notation.md#nothing) [d](https://example.org) [e](#ground)"
    assert broken_links(DOCS / "equations.md", text) == ["nowhere.md", "notation.md#nothing", "#ground"]


# Names of code, tests and metrics


def resolve(name: str) -> tuple[object, str]:
    """(what a dotted name inside the package stands for, the file of its module)."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        file = "/".join(["src", "operant", *parts[:cut]]) + ".py"
        if (ROOT / file).is_file():
            found: object = importlib.import_module(".".join(["operant", *parts[:cut]]))
            for attribute in parts[cut:]:
                found = getattr(found, attribute)
            return found, file
    raise AttributeError(name)


@cache
def defined_in(file: str) -> set[str]:
    """::test and ::Class::test of a test file."""
    found = set()
    for node in ast.parse((ROOT / file).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(f"::{node.name}")
        elif isinstance(node, ast.ClassDef):
            found |= {f"::{node.name}::{x.name}" for x in node.body if isinstance(x, ast.FunctionDef)}
    return found


def missing_tests(text: str) -> list[str]:
    """Tests that are named and not there."""
    found = TEST.findall(text)
    return [file + test for file, test in found if not (ROOT / file).is_file() or test not in defined_in(file)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_that_are_named_exist(page):
    assert missing_tests(page.read_text("utf-8")) == []


def test_a_test_that_is_not_there_is_found():
    text = "`tests/test_docs.py::no_such` `tests/nowhere.py::test_a` `tests/test_docs.py::test_links_lead_somewhere`"
    assert missing_tests(text) == ["tests/test_docs.py::no_such", "tests/nowhere.py::test_a"]


@pytest.mark.parametrize(("name", "target"), sorted(set(NAME.findall(EQUATIONS))))
def test_functions_in_the_equations_exist_in_the_file_that_is_linked(name, target):
    found, file = resolve(name)
    assert callable(found)
    assert (DOCS / target).resolve() == ROOT / file


@pytest.mark.parametrize("name", ["core.losses.no_such_loss", "core.nowhere.f", "text.language_model.LanguageModel.no"])
def test_a_function_that_is_not_there_is_found(name):
    with pytest.raises(AttributeError):
        resolve(name)


@pytest.mark.parametrize("module", ["core.losses", "core.divergences", "core.returns"])
def test_no_equation_of_the_core_is_left_out(module):
    members = vars(importlib.import_module(f"operant.{module}"))
    own = {n for n, f in members.items() if inspect.isfunction(f) and f.__module__ == f"operant.{module}"}
    own = {f"{module}.{n}" for n in own if not n.startswith("_")}
    assert own
    assert own - {name for name, _ in NAME.findall(EQUATIONS)} == set()


def test_no_algorithm_is_left_out_of_the_equations():
    files = {f for f in (ROOT / "src/operant/algorithms").rglob("*.py") if f.stem != "__init__"}
    assert files - {(DOCS / target).resolve() for _, target in NAME.findall(EQUATIONS)} == set()


def test_every_entry_of_the_equations_names_a_test():
    """An entry begins with its name in bold. Those without a function are text."""
    for entry in re.split(r"^(?=\*\*)", EQUATIONS, flags=re.M)[1:]:
        assert not NAME.search(entry) or TEST.search(entry), entry[:60]


def test_metrics_are_those_that_the_code_writes():
    section = (DOCS / "notation.md").read_text("utf-8").partition("## Metrics")[2]
    metrics = re.findall(r"`([a-z]+/[a-z_]+)`", section)
    source = "".join(f.read_text("utf-8") for f in (ROOT / "src").rglob("*.py") if f.stem not in ("plots", "report"))
    assert len(metrics) > 20
    assert [m for m in metrics if f'"{m}"' not in source] == []


def test_formulas_survive_markdown():
    r"""Markdown eats the backslash of `\,` and `\\`, and takes a line that begins with + or - for a list."""
    for page in DOCS.rglob("*.md"):
        formulas = re.findall(r"\$\$(.+?)\$\$|(?<!\$)\$([^$\n]+)\$(?!\$)", page.read_text("utf-8"), re.S)
        for formula in ("".join(found) for found in formulas):
            assert not re.search(r"\\[^a-zA-Z]|\n\s*[-+] ", formula), f"{named(page)}: {formula}"


# Commands


def flags_of(options: type, prefix: str = "") -> set[str]:
    """The flags that a dataclass of options has on the command line."""
    name_lambda(options)
    found = set()
    for name, hint in typing.get_type_hints(options, include_extras=True).items():
        marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
        inner = typing.get_args(hint)[0] if marks else hint
        name = next((mark.name for mark in marks if getattr(mark, "name", None)), name)
        own = name[:-1].replace("_", "-") + name[-1]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            found |= flags_of(inner, prefix if marks else f"{prefix}{own}.")
        else:
            found.add(f"--{prefix}{own}")
    return found


@cache
def flags(command: str) -> set[str]:
    found = flags_of(importlib.import_module(f"operant.cli.{command}").Options) | COMMON_FLAGS
    more = {"train": map(options_of, ALGORITHMS), "evaluate": [evaluate.Policy]}.get(command, [])
    return found.union(*map(flags_of, more))


def examples(text: str) -> list[list[str]]:
    """The command lines in the fences of a page, without `operant`."""
    lines = "\n".join(body for _, body in FENCE.findall(text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("operant ")]


def unknown_flags(text: str, command: str | None) -> list[str]:
    """Flags that their command does not have: in an example its own, elsewhere that of the page."""
    prose = re.sub(r"`(?:pip|git|pytest) [^`]*`", "", FENCE.sub("", text))
    calls = [" ".join(example) for example in examples(text)] + re.findall(r"`operant ([a-z][^`]*)`", prose)
    wrong = [f"{c.split()[0]} {f}" for c in calls for f in FLAG.findall(c) if f not in flags(c.split()[0])]
    prose = re.sub(r"`operant [^`]*`", "", prose)
    known = flags(command) if command else set().union(*map(flags, COMMANDS))
    return wrong + [f for f in FLAG.findall(prose) if f not in known]


def test_every_command_has_a_page():
    assert {page.stem for page in (DOCS / "commands").glob("*.md")} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_options_that_are_named_exist(page):
    command = page.stem if page.parent.name == "commands" else None
    assert unknown_flags(page.read_text("utf-8"), command) == []


def test_an_unknown_option_is_found():
    text = (
        "`--clip`, `--no-such`, `operant dpo --data d --ties half`\n```\noperant dpo --model m \\\n  --clip 0.2\n```\n"
    )
    assert unknown_flags(text, "rlhf") == ["dpo --clip", "dpo --ties", "--no-such"]


def test_flags_are_those_that_the_command_line_has(capsys):
    with pytest.raises(SystemExit):
        parse(importlib.import_module("operant.cli.rloo").Options, "rloo", ["--help"])
    assert set(re.findall(r"^\W*(--[\w.-]+)", capsys.readouterr().out, re.M)) >= flags("rloo") - COMMON_FLAGS


EXAMPLES = [(named(page), example) for page in PAGES for example in examples(page.read_text("utf-8"))]


@pytest.mark.parametrize(("page", "example"), EXAMPLES, ids=[f"{p}: {' '.join(e)[:60]}" for p, e in EXAMPLES])
def test_examples_are_accepted(page, example, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, *arguments = example
    if command in ("--help", "COMMAND"):
        return
    module = importlib.import_module(f"operant.cli.{command}")
    if "--resume" in arguments:  # the settings come from a run, which is not here
        assert [a for a in arguments if a.startswith("--")] in (["--out", "--resume"], ["--out", "--resume", "--only"])
        return
    kind, preset = module.options(arguments) if hasattr(module, "options") else (module.Options, None)
    parse(kind, command, arguments, preset)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_pages_of_commands_have_the_same_parts(command):
    text = (DOCS / "commands" / f"{command}.md").read_text("utf-8")
    assert text.startswith(f"# operant {command}\n")
    assert any(example[0] == command for example in examples(text))
    parts = [part for part in re.findall(r"^## (.+)$", text, re.M) if part != "What to watch"]
    assert parts in (
        ["Data", "Example", "Run folder", "Resume", "Frequent errors"],
        ["Data", "Example", "Output", "Resume", "Frequent errors"],
    )


@cache
def messages() -> str:
    """All strings of the package, a line each, with … for what is filled in."""
    found = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(x.value) if isinstance(x, ast.Constant) else "…" for x in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(message.replace("\n", " ") for message in found)


def unknown_errors(text: str) -> list[str]:
    """Messages in a list of frequent errors that the package does not say; "..." is left open."""
    section = text.partition("## Frequent errors")[2]
    quotes = [" ".join(q.split()) for q in re.findall(r"^- \*([^*]+)\*", section, re.M)]
    pattern = {q: ".*".join(re.escape(part.strip()) for part in q.split("...")) for q in quotes}
    return [q for q in quotes if not re.search(pattern[q], messages())]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_errors_that_are_named_are_said(command):
    text = (DOCS / "commands" / f"{command}.md").read_text("utf-8")
    assert unknown_errors(text) == []


def test_an_error_that_is_not_said_is_found():
    text = (
        "## Frequent errors\n\n- *no such message*: a.\n- *the run folder ... exists*: b.\n- *the run ... is blue*: c."
    )
    assert unknown_errors(text) == ["no such message", "the run ... is blue"]


# Data, version, licence


def test_examples_of_data_are_read_as_what_they_are(tmp_path):
    text = (DOCS / "data_formats.md").read_text("utf-8")
    (lines,) = (body for language, body in FENCE.findall(text) if language == "json")
    kinds = []
    for line in lines.strip().splitlines():
        (tmp_path / "one.jsonl").write_text(line + "\n", "utf-8")
        dataset = load(tmp_path / "one.jsonl")
        assert set(dataset.columns) == set(json.loads(line))
        kinds.append(dataset.kind)
    assert kinds == ["text", "demonstration", "chat", *["ranking"] * 4, "thumb", "prompt"]


def test_the_version_has_an_entry_and_the_licence_is_the_one_that_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == operant.__version__
    assert f"## [{operant.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


# What equations.md derives


class TestDerivations:
    """One prompt, six responses, a reward and a reference drawn at random."""

    beta = 0.3

    @pytest.fixture
    def reward(self) -> Tensor:
        return torch.randn(6, dtype=torch.float64)

    @pytest.fixture
    def reference(self) -> Tensor:
        return torch.randn(6, dtype=torch.float64).log_softmax(-1)

    @pytest.fixture
    def optimal(self, reward: Tensor, reference: Tensor) -> Tensor:
        """log π*."""
        return (reference + reward / self.beta).log_softmax(-1)

    def objective(self, log_policy: Tensor, reward: Tensor, reference: Tensor) -> Tensor:
        """E[r] - β KL(π || π_ref), exactly."""
        each = reward - self.beta * kl_estimate(log_policy, reference, "k1")
        return (log_policy.exp() * each).sum(-1)

    def test_the_optimal_policy_is_the_reference_tilted_by_the_reward(self, reward, reference, optimal):
        log_z = torch.logsumexp(reference + reward / self.beta, -1)
        for _ in range(20):
            policy = torch.randn(6, dtype=torch.float64).log_softmax(-1)
            distance = (policy.exp() * kl_estimate(policy, optimal, "k1")).sum()
            expected = self.beta * (log_z - distance)
            torch.testing.assert_close(self.objective(policy, reward, reference), expected)
        torch.testing.assert_close(self.objective(optimal, reward, reference), self.beta * log_z)

    def test_the_implicit_reward_of_the_optimal_policy_is_the_reward_up_to_a_constant(self, reward, reference, optimal):
        implicit = self.beta * (optimal - reference)
        constant = self.beta * torch.logsumexp(reference + reward / self.beta, -1)
        torch.testing.assert_close(implicit + constant, reward)

    def test_dpo_of_the_optimal_policy_is_the_pair_loss_of_its_reward(self, reward, reference, optimal):
        w, l = torch.combinations(torch.arange(6)).T  # noqa: E741
        of_policy = dpo_loss(optimal[w], optimal[l], reference[w], reference[l], self.beta)
        torch.testing.assert_close(of_policy, bradley_terry_loss(reward[w], reward[l]))

    def gradient(self, logits: Tensor, advantage: Tensor) -> Tensor:
        """Of the expected `policy_gradient_loss`, actions drawn from the policy itself."""
        log_prob = logits.log_softmax(-1)
        loss = (log_prob.detach().exp() * policy_gradient_loss(log_prob, advantage)).sum()
        return torch.autograd.grad(loss, logits)[0]

    def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(self, reward):
        logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
        (exact,) = torch.autograd.grad((logits.softmax(-1) * reward).sum(), logits)
        torch.testing.assert_close(self.gradient(logits, reward), -exact)

    @pytest.mark.parametrize("baseline", [-3.0, 0.5, 100.0])
    def test_a_baseline_changes_no_policy_gradient(self, reward, baseline):
        logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(self.gradient(logits, reward - baseline), self.gradient(logits, reward))
