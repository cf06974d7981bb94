"""`metasum compare-networks`: finished networks of the user's own, in one table and on one page."""

import csv
import json

import numpy as np
import pytest
import torch
from apart import network
from refusal import refused
from tiny import blob_arrays, write_npz

MODEL = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 4))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL)
    for seed, name in enumerate("abc"):
        torch.save({"state_dict": network(seed).state_dict()}, f"{name}.pt")
        write_npz(tmp_path / f"{name}.npz", blob_arrays(seed))
    (x, y), _ = blob_arrays(0)
    np.savez("plain.npz", x=x, y=y)
    return tmp_path


OWN = ("--model", "my_model.py:make", "--device", "cpu")


def test_two_networks_by_every_method(metasum, folder):
    outcome = metasum("compare-networks", "a.pt", "b.pt", *OWN, "--on", "a.npz,b.npz", "--out", "out", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["networks"] == ["a.pt", "b.pt"]
    assert result["datasets"] == ["a.npz", "b.npz"]
    rows = {row["name"]: row for row in result["rows"]}
    assert {"a.pt", "b.pt", "average", "regmean", "fisher", "weight-matching", "ensemble"} <= set(rows)
    assert set(result["left_out"]) >= {"ties", "task-arithmetic"}, "there is no base"
    measured = json.loads(metasum("evaluate", "a.pt", *OWN, "--on", "b.npz", "--json").out)
    assert rows["a.pt"]["on"]["b.npz"]["accuracy"] == pytest.approx(measured["accuracy"]["b.npz"])
    place = folder / "out" / "networks" / "a+b"
    assert sorted(file.name for file in place.iterdir()) == ["report.html", "results.csv", "results.json"]
    assert json.loads((place / "results.json").read_text()) == result
    lines = list(csv.DictReader((place / "results.csv").read_text().splitlines()))
    assert {line["network"] for line in lines} == set(rows)
    assert "regmean" in (place / "report.html").read_text()
    assert "training halves" in outcome.err
    assert "'state_dict'" in outcome.err
    before = (place / "report.html").read_text()
    (place / "report.html").unlink()
    assert metasum("report", place).code == 0
    assert (place / "report.html").read_text() == before


def test_three_networks_a_base_and_chosen_methods(metasum, folder):
    flags = ("--on", "plain.npz", "--base", "c.pt", "--methods", "ties,average", "--name", "three", "--quiet")
    outcome = metasum("compare-networks", "a.pt", "b.pt", "c.pt", *OWN, *flags)
    assert (outcome.code, outcome.err) == (0, "")
    assert str((folder / "runs" / "networks" / "three").relative_to(folder)) in outcome.out
    names = {row["name"] for row in json.loads((folder / "runs/networks/three/results.json").read_text())["rows"]}
    assert {"ties", "average"} <= names
    assert "fisher" not in names
    again = metasum("compare-networks", "a.pt", "b.pt", "c.pt", *OWN, *flags)
    refused(again, 2, "holds a comparison already", "--overwrite")
    assert metasum("compare-networks", "a.pt", "b.pt", "c.pt", *OWN, *flags, "--overwrite").code == 0


def test_methods_that_know_the_task_answer_where_there_is_a_file_for_each_checkpoint(metasum, folder):
    for name, seed in (("x", 0), ("y", 1)):
        (x, y), _ = blob_arrays(seed)
        np.savez(f"{name}.npz", x=x, y=y)
    flags = ("--base", "c.pt", "--methods", "emr,tall-masks,surgery,average", "--json", "--name")
    given = ("--on", "x.npz,y.npz", "--images", "a.npz,b.npz")
    outcome = metasum("compare-networks", "a.pt", "b.pt", *OWN, *flags, "given", *given)
    assert outcome.code == 0, outcome.err
    assert "each file of --on is taken as data of the task of the checkpoint in its place" in outcome.err
    result = json.loads(outcome.out)
    assert (result["left_out"], result["datasets"]) == ({}, ["x.npz", "y.npz"])
    known = {row["name"]: row["on"] for row in result["rows"] if row["what"] == "task known"}
    assert set(known) == {"emr", "tall-masks", "surgery"}
    halves = metasum("compare-networks", "a.pt", "b.pt", *OWN, *flags, "halves", "--on", "a.npz,b.npz")
    assert json.loads(halves.out)["left_out"] == {}
    plain = json.loads(metasum("compare-networks", "a.pt", "b.pt", *OWN, *flags, "plain", "--on", "x.npz,y.npz").out)
    assert set(plain["left_out"]) == {"emr", "tall-masks", "surgery"}
    assert "--on a file for each checkpoint, in their order, and --images, too" in plain["left_out"]["emr"]


def test_heads_of_their_own(metasum, folder):
    flags = ("--on", "a.npz,b.npz", "--keep", "6.*", "--methods", "average", "--json")
    outcome = metasum("compare-networks", "a.pt", "b.pt", *OWN, *flags)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["kept"] == ["6.*"]
    alone = [row["on"] for row in result["rows"] if row["what"] == "alone"]
    assert {name for on in alone for name in on} == {"a.npz", "b.npz"}
    found = json.loads(metasum("evaluate", "b.pt", *OWN, "--on", "b.npz", "--json").out)
    own = next(on["b.npz"] for on in alone if "b.npz" in on)
    assert own["accuracy"] == pytest.approx(found["accuracy"]["b.npz"])


REFUSED = {
    "one": (["a.pt", "--on", "a.npz"], 2, ["at least 2"]),
    "twice": (["a.pt", "a.pt", "--on", "a.npz"], 2, ["a.pt is named twice"]),
    "images": (["a.pt", "b.pt", "--on", "a.npz", "--images", "a.npz"], 2, ["each of the 2 checkpoints, not 1"]),
    "method": (["a.pt", "b.pt", "--on", "a.npz", "--methods", "averge"], 2, ["did you mean 'average'?"]),
    "no file": (["a.pt", "b.pt", "--on", "d.npz"], 1, ["there is no file d.npz"]),
    "name": (["a.pt", "b.pt", "--on", "a.npz", "--name", "x/y"], 2, ["x/y"]),
    "pattern": (["a.pt", "b.pt", "--on", "a.npz,b.npz", "--keep", "head.*"], 2, ["--keep head.*: no parameter"]),
    "heads": (["a.pt", "b.pt", "--on", "a.npz", "--keep", "6.*"], 2, ["with --keep", "--on takes a file for each"]),
    "nothing": (
        ["a.pt", "b.pt", "--on", "plain.npz", "--methods", "regmean,ties"],
        2,
        [
            "no method merges these networks",
            "regmean looks at images",
            "give --images",
            "ties works",
            "give --base FILE",
        ],
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(metasum, folder, kind):
    arguments, code, words = REFUSED[kind]
    refused(metasum("compare-networks", *arguments, *OWN, "--quiet"), code, *words)
    assert not (folder / "runs").exists()
