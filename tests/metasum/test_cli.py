"""The command line: one spelling, help for everything, results for people and for programs."""

import io
import json
import sys

import click
import pytest
from refusal import nothing_written, refused

from metasum import settings
from metasum.baselines.registry import LEARNERS
from metasum.cli import metasum as group
from metasum.commands.bars import bar
from metasum.config import options_of
from metasum.errors import UsageError
from metasum.results.accuracy import BeforeAfter, Evaluation
from metasum.run.request import COMMON, Request, run_settings
from metasum.study.engine.display import SilentStudy, study_display_for
from metasum.training.progress import LineDisplay, RichDisplay, SilentDisplay, display_for


def test_every_setting_is_a_flag_with_help(metasum):
    text = "".join(metasum("train", "--help").out.split())  # however it is wrapped
    told = {}
    for _, section in run_settings():
        for leaf in options_of(section):
            unit = f" Unit: {leaf.metadata['unit']}." if leaf.metadata["unit"] else ""
            told.setdefault(leaf.flag, set()).add("".join(f"{leaf.metadata['help']}{unit}".split()))
    for flag, sentences in told.items():
        assert flag in text
        assert any(sentence in text for sentence in sentences), flag


def test_a_default_is_told_with_who_has_it(metasum):
    text = " ".join(metasum("train", "--help").out.split())
    for words in (
        "Unit: images. [default: the pair's recipe]",
        "on the support's images. [default: no-symmetric]",
        "[default: 0.25]",
        "0.5 (slots, blocks, quiet), else 0.0]",
        "[default: half of --steps; 0 with --init]",
    ):
        assert words in text


def test_help_keeps_its_examples_on_lines_of_their_own(metasum):
    assert "    metasum train" in metasum("--help").out.splitlines()
    bare = metasum()
    assert bare.code == 0
    assert bare.out == metasum("--help").out


def test_every_number_has_a_range_and_every_flag_a_sentence():
    for _, section in run_settings():
        for leaf in options_of(section):
            assert leaf.metadata["help"].rstrip().endswith((".", "]", "].")), leaf.name
            if leaf.kind in (int, float):
                bounds = leaf.metadata["bounds"]
                assert bounds["minimum"] is not None or bounds["above"] is not None, leaf.name


def test_a_name_means_one_thing():
    """A learner's own setting is called as nobody else's, unless it takes the same kind of value."""
    found = {}
    for name, learner in LEARNERS.items():
        for leaf in options_of(learner.Config):
            assert leaf.name not in COMMON, name
            assert found.setdefault(leaf.name, (leaf.kind, leaf.many)) == (leaf.kind, leaf.many)


@pytest.mark.parametrize("command", sorted(group.commands))
def test_every_option_of_every_command_has_help(metasum, command):
    outcome = metasum(command, "--help")
    assert outcome.code == 0
    asked = group.commands[command]
    for parameter in asked.get_params(click.Context(asked)):
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


def test_underscores_and_booleans_are_taken_as_sweep_agents_send_them(metasum, tiny, tmp_path):
    flags = ["--batch_size=4", "--symmetric=True", "--sum_weight=2", "--report=false", "--seed=3"]
    flags += ["--overwrite=true", "--quiet=False"]
    outcome = metasum("train", *tiny, *flags, "--json")
    assert outcome.code == 0, outcome.err
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed3"
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["data"]["batch_size"] == 4
    assert settings["own"]["symmetric"] is True
    assert settings["own"]["sum_weight"] == 2.0
    assert not (run / "report.html").exists()


def test_what_agents_send_arrives_whatever_its_kind(metasum, tiny, tmp_path):
    sent = ["--steps=2.0", "--learning_rate=1e-05", "--clip=None", "--init=null", "--norm=none"]
    sent += ["--augment_target=none", "--tangent=True", "--symmetric=False"]
    outcome = metasum("train", *tiny, *sent)
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "runs" / "rows+lines" / "metasum-seed0" / "config.json").read_text())["settings"]
    assert (found["optimisation"]["steps"], found["optimisation"]["learning_rate"]) == (2, 1e-05)
    assert type(found["optimisation"]["steps"]) is int
    assert (found["optimisation"]["clip"], found["network"]["init"]) == (None, None)
    assert (found["network"]["norm"], found["data"]["augment_target"]) == ("none", "none")
    assert (found["network"]["tangent"], found["own"]["symmetric"]) == (True, False)


WITHOUT_ARGUMENTS = sorted(
    name for name, asked in group.commands.items() if not any(isinstance(p, click.Argument) for p in asked.params)
)


@pytest.mark.parametrize("command", WITHOUT_ARGUMENTS)
def test_none_is_not_given_and_a_whole_float_is_an_integer(command):
    asked = group.commands[command]

    def parsed(option, value):
        context = asked.make_context(command, [f"--{option.opts[0][2:].replace('-', '_')}={value}"])
        return {**context.params, **context.params.get("given", {})}.get(option.name)

    for option in asked.get_params(click.Context(asked)):
        leaf = getattr(option.type, "leaf", None)
        if isinstance(option.type, click.types.IntParamType) or (leaf is not None and leaf.kind is int):
            assert repr(parsed(option, "3.0")) == repr((3,) if option.multiple else 3), option.name
        if leaf is not None and (leaf.required or leaf.default in (None, ())):
            assert parsed(option, "None") is parsed(option, "null") is None, option.name


def test_what_stands_behind_two_dashes_is_not_for_this_command():
    given = ["--seed=3.0", "--", "--seed=None", "--inner_lr=0.1", "--json=true"]
    context = group.commands["sweep"].make_context("sweep", ["file.yaml", *given])
    assert (context.params["given"]["seed"], context.params["arguments"]) == (3, tuple(given[2:]))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--inner_lr=None", ("--inner-lr", "None", "its default, 0.1")),
        ("--norm=null", ("--norm", "null", "its default, batch")),
        ("--symmetric=None", ("--symmetric", "true or false", "'None'")),
        ("--steps=300.5", ("--steps", "300.5", "whole number")),
        ("--seed=nan", ("--seed", "nan", "whole number")),
        ("--seed=1.x", ("--seed", "1.x", "whole number")),
        ("--clip=none", ("--clip", "none")),
    ],
)
def test_what_an_option_cannot_take_is_refused_by_its_name(metasum, tiny, tmp_path, argument, words):
    refused(metasum("train", *tiny, argument), 2, *words)
    assert nothing_written(tmp_path)


def test_a_command_prints_its_result_and_nothing_else_on_stdout(metasum, tiny):
    outcome = metasum("train", *tiny)
    assert "before" in outcome.out
    assert "rows (target)" in outcome.out
    assert "step 2/6" in outcome.err
    assert "step" not in outcome.out.splitlines()[0]
    quiet = metasum("train", *tiny, "--overwrite", "--quiet", "--json")
    assert quiet.err == ""
    json.loads(quiet.out)


def test_python_gets_the_same_checks():
    for wrong in ({"seed": "1"}, {"seed": True}, {"seed": 1.5}, {"learner": 3}, {"wandb_tags": "one"}, {"width": "1"}):
        with pytest.raises(UsageError, match="takes"):
            settings(**wrong)


def test_settings_by_flat_names_are_those_of_the_flags():
    request = settings(target="mnist", width=0.5, symmetric=True, seed=2)
    assert dict(request.given) == {"target": "mnist", "width": 0.5, "symmetric": True, "seed": 2}
    assert (request["support"], request["learner"]) == ("letters", "metasum")
    assert settings() == Request()
    with pytest.raises(UsageError, match=r"unknown setting 'widht'; did you mean 'width'\?"):
        settings(widht=1)


EVALUATION = Evaluation(BeforeAfter(0.5, 0.25), BeforeAfter(0.75, 1.0))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drive(display):
    display.begin("metasum a+b", step=0, steps=100)
    for step in range(1, 101):
        losses = {"target": 1.0, "sum": 2.0} if step % 10 == 0 else None
        display.stepped(step, losses=losses, images_per_second=123.0)
    display.evaluated(100, EVALUATION)
    display.note("a [bracketed] note")
    display.end()


def test_lines_where_output_is_no_terminal():
    stream = io.StringIO()
    display = display_for(quiet=False, stream=stream)
    assert isinstance(display, LineDisplay)
    drive(display)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "metasum a+b"
    assert "step 10/100  target 1.000  sum 2.000  123 images/s" in lines
    assert "\x1b" not in stream.getvalue()
    assert 11 <= len(lines) <= 14
    assert "target 50.00% alone, 25.00% in the sum  support 75.00% alone, 100.00% in the sum" in stream.getvalue()


def test_a_live_display_in_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    display = display_for(quiet=False, stream=stream)
    assert isinstance(display, RichDisplay)
    drive(display)
    for words in ("100/100", "123 images/s", "target 1.000", "25.00% in the sum", "a [bracketed] note"):
        assert words in stream.getvalue()


def test_quiet_says_nothing():
    stream = Terminal()
    display = display_for(quiet=True, stream=stream)
    assert isinstance(display, SilentDisplay)
    drive(display)
    assert stream.getvalue() == ""


def test_without_a_standard_error_nothing_is_shown_and_stdout_stays_a_results(metasum, monkeypatch):
    """As with `2>&-`, where Python has None in its place."""
    assert metasum("evaluate", "nothing.safetensors", "--on", "digits", "--json").err
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(display_for(quiet=False), SilentDisplay)
    assert isinstance(study_display_for(quiet=False), SilentStudy)
    with bar("merging", quiet=False) as advance:
        assert advance is None
    outcome = metasum("evaluate", "nothing.safetensors", "--on", "digits", "--json")
    assert (outcome.code, outcome.out) == (1, "")
