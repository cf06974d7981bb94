"""Several processes that train as one, started for real."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from started import PLAIN, TORCHRUN, run, same, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def flags(tiny):
    return ["train", *tiny, "--dropout", 0, "--augment-target", "shift"]


@pytest.mark.parametrize(
    ("norm", "launcher"),
    [
        (["--norm", "none"], [*PLAIN]),
        (["--norm", "group"], TORCHRUN),
    ],
    ids=["none", "group-torchrun"],
)
def test_two_processes_train_what_one_does(tmp_path, flags, norm, launcher):
    run([*PLAIN, *flags, *norm, "--name", "one"])
    devices = ["--devices", 2] if launcher == PLAIN else []
    two = run([*launcher, *flags, *norm, "--name", "two", *devices, "--json"])
    assert two.stdout.count('"accuracy"') == 1  # one process talks
    assert two.stderr.count("measuring on all held-out images") == 1
    one, both = weights(tmp_path, "one"), weights(tmp_path, "two")
    assert same(one, both)
    metrics = [(tmp_path / "runs" / "rows+lines" / name / "metrics.jsonl").read_text() for name in ("one", "two")]
    assert metrics[0].count("\n") == metrics[1].count("\n")


def test_batch_norm_that_is_not_synchronised_is_another_computation(tmp_path, flags):
    run([*PLAIN, *flags, "--name", "one"])
    run([*PLAIN, *flags, "--name", "two", "--devices", 2])
    assert not same(weights(tmp_path, "one"), weights(tmp_path, "two"))


def test_a_run_is_continued_by_another_number_of_processes(tmp_path, flags):
    flags = [*flags, "--norm", "none", "--steps", 150, "--checkpoint-every", 5, "--evaluate-every", 0]
    flags += ["--learning-rate", 1e-4]  # with larger ones rounding grows a thousandfold in 150 steps
    command = [*PLAIN, *flags, "--name", "stopped"]
    checkpoint = tmp_path / "runs" / "rows+lines" / "stopped" / "last.ckpt"
    first = subprocess.Popen([str(word) for word in [*command, "--devices", 2]], stderr=subprocess.PIPE, text=True)
    while not checkpoint.is_file() and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)  # to one of them; all stop at the same step
    said = first.communicate(timeout=120)[1]  # until the last of them has closed its end
    assert "the state is saved" in said, said
    assert said.count("Traceback") == 0
    run([*command, "--resume"])
    run([*PLAIN, *flags, "--name", "whole"])
    run([*PLAIN, *flags, "--name", "other", "--seed", 1])
    whole = weights(tmp_path, "whole")
    assert same(weights(tmp_path, "stopped"), whole, within=1e-4)
    assert not same(weights(tmp_path, "other"), whole, within=1e-4)


SYNCHRONISED = """
import sys, torch
from torch import nn
from lightning_fabric import Fabric
from metasum.networks.synchronised import synchronise

fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 3)).double()
images = torch.randn(8, 1, 6, 6, dtype=torch.float64)
if sys.argv[1] == "both":
    network = synchronise(network)
    loss = network(images[fabric.global_rank :: 2]).square().mean()
else:
    loss = network(images).square().mean()
loss.backward()
gradients = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
gradients = fabric.all_reduce(gradients, reduce_op="mean")
buffers = torch.cat([buffer.double().flatten() for buffer in network.buffers()])
if fabric.global_rank == 0:
    torch.save({"gradients": gradients, "buffers": buffers}, sys.argv[2])
"""


def test_synchronised_batch_norm_sees_all_images_and_so_does_its_gradient(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SYNCHRONISED)
    found = {}
    for which in ("both", "one"):
        run([sys.executable, script, which, tmp_path / f"{which}.pt"])
        found[which] = torch.load(tmp_path / f"{which}.pt", weights_only=True)
    for name in ("gradients", "buffers"):
        torch.testing.assert_close(found["both"][name], found["one"][name], rtol=1e-9, atol=1e-12)


def test_what_is_wrong_is_said_once(tmp_path, flags):
    said = run([*PLAIN, *flags, "--devices", 2, "--batch-size", 7], code=2).stderr
    assert said.count("cannot be divided among 2 processes") == 1
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()
