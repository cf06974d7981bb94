"""`--network FILE.py:FUNCTION`: what a user's own function makes is trained, and found again; and what is refused."""

import json
import shutil

import pytest
import torch
from refusal import nothing_written, refused
from tiny import write_npz

from metasum import load_network
from metasum.errors import UsageError
from metasum.networks import functions

MODEL = """
from dataclasses import dataclass
from torch import nn
from sizes import HIDDEN

@dataclass
class Sizes:
    hidden: int

def make(num_classes=4, in_channels=1, image_size=32):
    hidden = Sizes(HIDDEN).hidden
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, hidden), nn.BatchNorm1d(hidden),
                         nn.ReLU(), nn.Linear(hidden, num_classes))

def plain():
    return make()

def convolutional():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 4))

def few():
    return make(num_classes=3)

def fixed():
    return make(image_size=28)

def dictionary():
    class Answers(nn.Module):
        def forward(self, images):
            return {"logits": images}
    return Answers()

def nothing():
    pass

def raises():
    raise ValueError("no such layer")

def needs(depth):
    pass

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: with my_model.py and a module that it imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL)
    (tmp_path / "sizes.py").write_text("HIDDEN = 6\n")
    return tmp_path


@pytest.fixture
def flags(tiny):
    """Those of a tiny training, without what a function of one's own need not take."""
    left = list(tiny)
    for name in ("--width", "--dropout"):
        del left[left.index(name) : left.index(name) + 2]
    return left


def turned(flags):
    """The same with the other target."""
    other = {"rows": "lines", "lines": "rows"}
    return [other.get(flag, flag) if isinstance(flag, str) else flag for flag in flags]


RUN = ("runs", "rows+lines", "metasum-seed0")


def test_it_is_trained_resumed_measured_and_added(metasum, folder, flags):
    own = [*flags, "--network", "my_model.py:make"]
    for each in (own, turned(own)):
        outcome = metasum("train", *each)
        assert outcome.code == 0, outcome.err
    run = folder.joinpath(*RUN)
    told = json.loads((run / "config.json").read_text())["settings"]["network"]["network"]
    assert told == f"{folder / 'my_model.py'}:make"
    assert "is finished already" in metasum("train", *own, "--resume").err
    assert load_network(run / "target.safetensors")(torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    root = ["--data-root", folder / "data"]
    outcome = metasum("evaluate", run / "summed.safetensors", "--on", "rows", *root)
    assert outcome.code == 0, outcome.err
    outcome = metasum("sum", run, folder / "runs" / "lines+rows" / "metasum-seed0", "--out", "runs", "--no-report")
    assert outcome.code == 0, outcome.err


def test_a_module_of_the_current_folder_does_too(metasum, folder, flags):
    outcome = metasum("train", *flags, "--network", "my_model:convolutional")
    assert outcome.code == 0, outcome.err
    assert load_network(folder.joinpath(*RUN, "target.safetensors"))(torch.zeros(1, 1, 32, 32)).shape == (1, 4)


def test_an_interrupted_run_goes_on_from_its_own_folder(metasum, folder, flags):
    own = [*flags, "--network", "my_model.py:plain"]
    assert metasum("train", *own).code == 0
    run = folder.joinpath(*RUN)
    (run / "result.json").unlink()
    outcome = metasum("train", *own, "--resume")
    assert outcome.code == 0, outcome.err
    assert (run / "result.json").is_file()


REFUSED = {
    "gone.py:make": ["there is no file", "gone.py"],
    "my_model.py:mak": ["my_model.py has no function 'mak'", "make"],
    "my_model.py:number": ["my_model.py has no function 'number'"],
    "my_model.py:": ["FILE.py:FUNCTION", "'my_model.py:'"],
    "nowhere.models:make": ["there is no module 'nowhere.models'"],
    "my_model.py:raises": ["my_model.py:raises failed in line 37", "ValueError('no such layer')"],
    "my_model.py:needs": ["my_model.py:needs failed", "depth"],
    "my_model.py:nothing": ["my_model.py:nothing returned a NoneType, not a torch.nn.Module"],
    "my_model.py:fixed": ["does not take images [N, 1, 32, 32]", "--image-size"],
    "my_model.py:few": ["has 3 outputs, too few for 4 classes"],
    "my_model.py:dictionary": ["gives a dict for 2 images"],
    "broken.py:make": ["broken.py is not Python", "line 1"],
    "failing.py:make": ["failing.py failed in line 1", "ZeroDivisionError"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_network_is_refused_before_anything_is_written(metasum, folder, flags, name):
    (folder / "broken.py").write_text("def make(:\n")
    (folder / "failing.py").write_text("1 / 0\n")
    refused(metasum("train", *flags, "--network", name), 2, *REFUSED[name])
    assert nothing_written(folder)


def test_settings_that_the_function_does_not_take_are_refused(metasum, folder, flags):
    for given in (["--width", 0.5], ["--norm", "group"], ["--dropout", 0.1]):
        outcome = metasum("train", *flags, "--network", "my_model.py:make", *given)
        refused(outcome, 2, f"{given[0]} says nothing to", f"no parameter {given[0][2:]!r}")
    assert nothing_written(folder)


def test_studies_take_it(metasum, folder, flags):
    left = list(flags)
    place = left.index("--no-report")
    del left[place]
    own = [*left, "--network", "my_model.py:make", "--learners", "independent,average", "--seeds", 1]
    outcome = metasum("compare-baselines", *own, "--no-tune", "--no-report")
    assert outcome.code == 0, outcome.err


def test_a_moved_file_is_said_in_a_sentence(metasum, folder, flags):
    assert metasum("train", *flags, "--network", "my_model.py:make").code == 0
    (folder / "my_model.py").rename(folder / "moved.py")
    weights = folder.joinpath(*RUN, "target.safetensors")
    outcome = metasum("evaluate", weights, "--on", "rows", "--data-root", folder / "data")
    refused(outcome, 2, f"there is no file {folder / 'my_model.py'}")


def test_code_that_a_weights_file_names_is_not_run_because_it_is_opened(metasum, folder, flags, monkeypatch):
    """Somebody else's file may name a path: whoever opens it has to have named that himself."""
    assert metasum("train", *flags, "--network", "my_model.py:make").code == 0
    weights = folder.joinpath(*RUN, "target.safetensors")
    monkeypatch.setattr(functions, "_named", set())
    load_network(weights)  # it is remembered from one process to the next
    monkeypatch.setenv("METASUM_CACHE", str(folder / "other"))
    monkeypatch.setattr(functions, "_modules", {})
    (folder / "my_model.py").write_text("raise AssertionError('it was run')")
    with pytest.raises(UsageError, match=r"nobody has named that here.*--plugin"):
        load_network(weights)
    (folder / "my_model.py").write_text(MODEL.replace("from sizes import HIDDEN", "HIDDEN = 6"))
    measure = ("evaluate", weights, "--on", "rows", "--data-root", folder / "data")
    refused(metasum(*measure), 2, "nobody has named that here")
    assert metasum(*measure, "--plugin", folder / "my_model.py").code == 0


def test_a_run_of_another_image_size_is_not_added(metasum, folder, flags):
    own = [*flags, "--network", "my_model.py:convolutional"]
    assert metasum("train", *own).code == 0
    assert metasum("train", *turned(own), "--image-size", 16).code == 0
    outcome = metasum("sum", folder.joinpath(*RUN), folder / "runs" / "lines+rows" / "metasum-seed0")
    refused(outcome, 1, "--image-size is 32", "and 16 in")


def images_of(size, channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (64, size, size, channels), generator=generator, dtype=torch.uint8).numpy()
    y = (torch.arange(64) % 4).numpy()
    return (x, y), (x[:32], y[:32])


@pytest.mark.parametrize("network", ["vgg16", "resnet"])
def test_larger_images_and_more_channels_reach_the_network(metasum, folder, tiny, network):
    flags = list(tiny)
    if network == "resnet":
        del flags[flags.index("--dropout") : flags.index("--dropout") + 2]
    write_npz(folder / "data" / "rows.npz", images_of(40, 5))
    asked = [*flags, "--network", network]
    refused(metasum("train", *asked), 1, "'rows' has images of 40x40", "--image-size 40")
    refused(metasum("train", *asked, "--image-size", 48), 1, "5 channels", "--in-channels 5")
    refused(metasum("train", *asked, "--image-size", 225), 2, "--image-size must be at most 224")
    assert nothing_written(folder)
    report = [flag for flag in asked if flag != "--no-report"]
    outcome = metasum("train", *report, "--image-size", 48, "--in-channels", 5)
    assert outcome.code == 0, outcome.err
    weights = folder.joinpath(*RUN, "summed.safetensors")
    assert load_network(weights)(torch.zeros(1, 5, 48, 48)).shape == (1, 4)
    outcome = metasum("evaluate", weights, "--on", "rows", "--on", "lines", "--data-root", folder / "data")
    assert outcome.code == 0, outcome.err


def test_vgg_has_the_same_weights_for_all_sizes_and_wants_16_pixels(metasum, folder, tiny):
    assert metasum("train", *tiny, "--image-size", 16).code == 0
    larger = [*tiny, "--image-size", 40, "--name", "larger"]
    assert metasum("train", *larger, "--init", folder.joinpath(*RUN, "initial.safetensors")).code == 0
    shutil.rmtree(folder / "runs")
    refused(metasum("train", *tiny, "--image-size", 8), 2, "vgg16 takes images of 16x16 or more")
    assert nothing_written(folder)
