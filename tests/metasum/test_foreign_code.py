"""Plug-ins that end the process, print, or raise what nobody catches; names that a terminal would obey."""

import json

import numpy as np
import pytest
from refusal import refused
from tiny import blob_arrays, write_npz

from metasum import cli
from metasum.errors import UsageError
from metasum.files import check_folder_name
from metasum.plain_text import plain
from metasum.report.page import _environment

ESCAPE = "\x1b[31mred\x9b2J\u202e"
ENDS = ["import sys; sys.exit(0)", "raise SystemExit", "class Own(BaseException): ...\n    raise Own('own')", "exit()"]


def plugin(tmp_path, body, *, top="", name="theirs"):
    path = tmp_path / "plugin.py"
    path.write_text(
        f"from metasum.tasks import register_dataset\n{top}\n"
        f"def load():\n    {body}\nregister_dataset({name!r}, load)\n"
    )
    return path


@pytest.mark.parametrize("body", ENDS)
def test_a_loader_that_ends_the_process_is_an_error_by_its_name(metasum, finished, tmp_path, body):
    own = ["--on", "theirs", "--json", "--plugin", plugin(tmp_path, body)]
    refused(
        metasum("evaluate", finished / "target.safetensors", *own), 1, "the loader of dataset 'theirs'", "plugin.py"
    )


@pytest.mark.parametrize("top", ["import sys; sys.exit(0)", "class Own(BaseException): ...\nraise Own('own')"])
def test_so_is_a_plug_in_that_does(metasum, finished, tmp_path, top):
    own = ["--on", "theirs", "--json", "--plugin", plugin(tmp_path, "pass", top=top)]
    refused(metasum("evaluate", finished / "target.safetensors", *own), 2, "plugin.py failed in line")


@pytest.mark.parametrize("error", ["SystemExit(0)", "Own('own')"])
def test_whatever_else_ends_a_command_is_one_sentence(metasum, finished, data_root, tmp_path, error):
    path = plugin(
        tmp_path,
        "pass",
        top="class Own(BaseException): ...\nimport metasum.run.evaluating as place\n"
        f"def ending(*a):\n    raise {error}\nplace.share_right, kept = ending, place.share_right",
    )
    import metasum.run.evaluating as place

    kept = place.share_right
    try:
        own = ["--on", "rows", "--data-root", data_root, "--json", "--plugin", path]
        refused(
            metasum("evaluate", finished / "target.safetensors", *own), 1, *(["plugin.py"] if "Exit" in error else [])
        )
    finally:
        place.share_right = kept


def test_what_a_plug_in_prints_is_not_in_the_json(metasum, finished, data_root, tmp_path):
    body = "print('loaded')\n    return __import__('tiny').blob_arrays(0)"
    own = ["--on", "theirs", "--json", "--plugin", plugin(tmp_path, body, top="print('begun')")]
    outcome = metasum("evaluate", finished / "target.safetensors", *own)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["accuracy"].keys() == {"theirs", "union"}
    assert "begun" in outcome.err
    assert "loaded" in outcome.err


def test_help_is_on_stdout_all_the_same(metasum):
    assert "Measure the network" in metasum("evaluate", "--json", "--help").out


def test_json_without_a_standard_output_fails_at_once(metasum, finished, monkeypatch, capsys):
    monkeypatch.setattr(cli.sys, "stdout", None)
    monkeypatch.setattr(cli.sys, "argv", ["metasum", "tasks", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    monkeypatch.undo()
    assert ended.value.code == 1
    assert "no standard output" in capsys.readouterr().err


def harmless(text):
    return all(letter in "\n\t" or plain(letter) == letter for letter in text)


def test_names_in_errors_and_tables_move_no_cursor(metasum, finished, data_root, tmp_path):
    odd = tmp_path / f"a{ESCAPE}.safetensors"
    for command in (["evaluate", odd, "--on", "rows"], ["report", odd], ["merge", "average", odd, odd, "-o", "b"]):
        outcome = metasum(*command)
        assert outcome.code
        assert harmless(outcome.err), command
        assert "\\x1b[31mred" in outcome.err or command[0] == "merge"
    write_npz(data_root / f"rows{ESCAPE}.npz", blob_arrays(0))
    outcome = metasum("tasks", "--data-root", data_root)
    assert outcome.code == 0
    assert harmless(outcome.out)
    outcome = metasum("tasks", "--data-root", data_root, "--json")
    assert harmless(outcome.out)


def test_nor_on_the_page(metasum, finished):
    path = finished / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "target": f"rows{ESCAPE}\ud800", "operator": f"sum{ESCAPE}"}))
    outcome = metasum("report", finished)
    assert outcome.code == 0, outcome.err
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert harmless(page)
    assert "\\x1b[31mred" in page


def test_a_template_writes_none():
    assert _environment().from_string("{{ a }}{{ b | safe }}").render(a="<\x1b>", b="<\x1b>") == "&lt;\\x1b&gt;<\\x1b>"


@pytest.mark.parametrize("name", [f"a{ESCAPE}", "a\nb", "a\udc80", "\x7f"])
def test_such_a_name_is_no_folders(name):
    with pytest.raises(UsageError):
        check_folder_name("--name", name)


def test_a_long_sentence_is_cut(metasum):
    outcome = metasum("train", "--target", "x" * 10**5)
    refused(outcome, 2, "a dataset called 'xxx", "does not work")
    assert len(outcome.err) < 1000


def test_labels_of_other_kinds(metasum, tiny, data_root):
    write_npz(data_root / "rows.npz", y_train=np.array(["\x1b[31m"] * 96))
    outcome = metasum("train", *tiny)
    refused(outcome, 1, "y_train")
    assert harmless(outcome.err)
