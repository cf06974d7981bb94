"""The command line: one spelling, help for everything, results for people and for programs."""

import io
import json

import click
import pytest
from refusal import nothing_written, refused

from metasum.cli import metasum as group
from metasum.config import TrainConfig, from_dict, settings, to_dict
from metasum.errors import UsageError
from metasum.options import options_of
from metasum.training.evaluation import BeforeAfter, Evaluation
from metasum.training.progress import LineDisplay, RichDisplay, SilentDisplay, display_for


def test_every_setting_is_a_flag_with_help(metasum):
    text = "".join(metasum("train", "--help").out.split())  # however it is wrapped
    for leaf in options_of(TrainConfig):
        assert leaf.flag in text
        unit = f" Unit: {leaf.metadata['unit']}." if leaf.metadata["unit"] else ""
        shown = "" if leaf.default is None else f"[default: {leaf.default}"
        if leaf.type is bool:
            shown = f"[default: {'' if leaf.default else 'no-'}{leaf.flag[2:]}"
        assert "".join(f"{leaf.metadata['help']}{unit} {shown}".split()) in text, leaf.name


def test_help_keeps_its_examples_on_lines_of_their_own(metasum):
    assert "    metasum train" in metasum("--help").out.splitlines()
    bare = metasum()
    assert bare.code == 0
    assert bare.out == metasum("--help").out


def test_every_number_has_a_range_and_every_flag_a_sentence():
    for leaf in options_of(TrainConfig):
        assert leaf.metadata["help"].rstrip().endswith((".", "]", "].")), leaf.name
        if leaf.type in (int, float) and leaf.name != "in_channels":
            assert leaf.metadata["minimum"] is not None or leaf.metadata["above"] is not None, leaf.name


def test_names_of_settings_are_unique_across_sections():
    names = [leaf.name for leaf in options_of(TrainConfig)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("command", sorted(group.commands))
def test_every_option_of_every_command_has_help(metasum, command):
    outcome = metasum(command, "--help")
    assert outcome.code == 0
    for parameter in group.commands[command].params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


def test_underscores_and_booleans_are_taken_as_sweep_agents_send_them(metasum, tiny, tmp_path):
    flags = ["--batch_size=4", "--symmetric=True", "--sum_weight=2", "--report=false", "--seed=3"]
    flags += ["--overwrite=true", "--quiet=False"]
    outcome = metasum("train", *tiny, *flags, "--json")
    assert outcome.code == 0, outcome.err
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed3"
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["data"]["batch_size"] == 4
    assert settings["objective"]["symmetric"] is True
    assert settings["objective"]["sum_weight"] == 2.0
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
    assert (found["network"]["tangent"], found["objective"]["symmetric"]) == (True, False)


@pytest.mark.parametrize("command", ["train", "meta-train", "compare-baselines", "experiment", "few-shot", "benchmark"])
def test_none_is_not_given_and_a_whole_float_is_an_integer(command):
    asked = group.commands[command]

    def parsed(parameter, value):
        context = asked.make_context(command, [f"--{parameter.opts[0][2:].replace('-', '_')}={value}"])
        return context.params[parameter.name], context.get_parameter_source(parameter.name)

    default, given = click.core.ParameterSource.DEFAULT, click.core.ParameterSource.COMMANDLINE
    for parameter in asked.params:
        if isinstance(parameter.type, click.types.IntParamType):
            assert repr(parsed(parameter, "3.0")) == repr((3, given))
        if parameter.get_default(click.Context(asked)) is None and not parameter.multiple:
            assert parsed(parameter, "None") == parsed(parameter, "null") == (None, default)


def test_what_stands_behind_two_dashes_is_not_for_this_command():
    given = ["--seed=3.0", "--", "--seed=None", "--inner_lr=0.1", "--json=true"]
    context = group.commands["sweep"].make_context("sweep", ["file.yaml", *given])
    assert (context.params["seed"], context.params["arguments"]) == (3, tuple(given[2:]))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--inner_lr=None", ("--inner-lr", "None", "its default, 0.1")),
        ("--norm=null", ("--norm", "null", "its default, batch")),
        ("--symmetric=None", ("--symmetric", "true or false", "'None'")),
        ("--steps=300.5", ("--steps", "300.5", "integer")),
        ("--seed=nan", ("--seed", "nan", "integer")),
        ("--seed=1.x", ("--seed", "1.x", "integer")),
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


def test_settings_survive_json():
    config = TrainConfig(seed=4)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("wrong", [{"seed": "1"}, {"seed": True}, {"seed": 1.5}, {"learner": 3}])
def test_python_gets_the_same_checks(wrong):
    with pytest.raises(UsageError, match="takes"):
        TrainConfig(**wrong)


def test_settings_by_flat_names_are_those_of_the_flags():
    config = settings(target="mnist", width=0.5, symmetric=True, seed=2)
    assert (config.data.target, config.network.width, config.objective.symmetric, config.seed) == (
        "mnist",
        0.5,
        True,
        2,
    )
    assert settings() == TrainConfig()
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
