"""Networks in pieces, one in each of two processes that are started for real."""

import json
import sys

import pytest
import torch
from started import PLAIN, TORCHRUN, run, same, weights
from tiny import images, labels, small_network, without_dropout
from torch.nn.functional import cross_entropy

from metasum.learners.networks import MetaSum

pytestmark = pytest.mark.slow


@pytest.fixture
def flags(tiny):
    """In one layout, because numbers are compared to 1e-5."""
    return ["train", *tiny, "--dropout", 0, "--augment-target", "shift", "--memory-format", "contiguous"]


@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        ([*PLAIN], ["--norm", "none", "--reading", "gap"]),
        (TORCHRUN, ["--norm", "group", "--operator", "average", "--symmetric", "--clip", 0.05, "--optimizer", "sgd"]),
        ([*PLAIN], ["--norm", "group", "--anchor", 0.1, "--sharpness", 0.05]),
    ],
    ids=["none-gap", "group-average-symmetric-clip-sgd", "anchor-sharpness"],
)
def test_two_pieces_train_what_one_whole_does(tmp_path, flags, launcher, options):
    run([*PLAIN, *flags, *options, "--name", "whole"])
    devices = ["--devices", 2] if launcher == PLAIN else []
    cut = run([*launcher, *flags, *options, "--name", "cut", *devices, "--fsdp", "--json"])
    assert cut.stdout.count('"accuracy"') == 1  # one process talks
    assert same(weights(tmp_path, "whole"), weights(tmp_path, "cut"))
    runs = [tmp_path / "runs" / "rows+lines" / name for name in ("whole", "cut")]
    files = [{path.name for path in folder.iterdir()} for folder in runs]
    assert files[0] == files[1]
    lines = [(folder / "metrics.jsonl").read_text() for folder in runs]
    assert losses(lines[0]) == pytest.approx(losses(lines[1]), rel=1e-5, abs=1e-5)


def losses(lines):
    return [loss for line in lines.splitlines() for loss in json.loads(line).get("losses", {}).values()]


def test_pieces_in_bfloat16_keep_the_statistics_of_wholes(tmp_path, flags):
    flags = [*without_dropout(flags), "--network", "resnet", "--width", 0.2, "--statistics", "learned"]
    flags = [*flags, "--devices", 2, "--sync-batch-norm", "--precision", "bf16-mixed"]
    run([*PLAIN, *flags, "--name", "whole"])
    run([*PLAIN, *flags, "--name", "cut", "--fsdp"])
    whole = weights(tmp_path, "whole")
    assert same(whole, weights(tmp_path, "cut"))
    assert any("running_var" in name for name in whole["summed"])


STOP = """
import os, signal
from metasum.training.harness import Harness

step = Harness._train_step

def stop_after_three(self):
    step(self)
    if self.step == 3 and self.together.first:
        os.kill(os.getpid(), signal.SIGINT)

Harness._train_step = stop_after_three
"""


def test_a_run_goes_on_in_pieces_or_whole(tmp_path, flags):
    (tmp_path / "stop.py").write_text(STOP)
    flags, pieces = [*flags, "--norm", "none"], ["--devices", 2, "--fsdp"]
    run([*PLAIN, *flags, "--name", "straight"])
    for name, begun, continued in (("joined", pieces, []), ("cut", [], pieces)):
        said = run([*PLAIN, *flags, *begun, "--plugin", tmp_path / "stop.py", "--name", name], code=1).stderr
        assert said.count("stopped at step 3 of 6; the state is saved") == 1
        assert "Traceback" not in said
        run([*PLAIN, *flags, *continued, "--name", name, "--resume"])
        assert same(weights(tmp_path, name), weights(tmp_path, "straight"))


def test_what_is_wrong_is_said_once(tmp_path, flags):
    said = run([*PLAIN, *flags, "--devices", 2, "--fsdp", "--quiet-weight", 1], code=2).stderr
    assert said.count("needs whole networks in training, for --quiet-weight") == 1
    assert not (tmp_path / "runs").exists()
    said = run([*PLAIN, *flags, "--devices", 2, "--fsdp", "--learning-rate", 1e30], code=1).stderr
    assert said.count("training diverged") == 1
    assert "Traceback" not in said


PIECES = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from lightning_fabric import Fabric
from tiny import images, labels, small_network, without_dropout
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import cross_entropy
from metasum.learners.networks import MetaSum
from metasum.learners.sharded import ShardedMetaSum
from metasum.weights.pieces import in_pieces, own_piece, put_together

fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
share = slice(fabric.global_rank, None, 2)
whole = MetaSum(small_network(0), support=small_network(1), backend="torch")
pair = ShardedMetaSum(whole, init_device_mesh("cpu", (2,)))
pair.eval()
optimizer = torch.optim.Adam(pair.parameters(), lr=0)
for _ in range(2):  # the second writes the sum anew
    optimizer.zero_grad()
    summed = pair.detached_sum()
    loss = cross_entropy(summed(images()[share]), labels()[share])
    third = list(pair._third[0].parameters())
    meanwhile = all(in_pieces(p) for p in third)
    loss.backward()
    cross_entropy(pair.target(images()[share]), labels()[share]).backward()
    summed.hand_on()
    optimizer.step()
moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
held = {
    "parameters": sum(own_piece(p).numel() for p in pair.parameters()),
    "gradients": sum(own_piece(p.grad).numel() for p in pair.parameters()),
    "moments": sum(own_piece(moment).numel() for moment in moments),
    "sum": sum(own_piece(p).numel() for p in third),
    "all in pieces": meanwhile and all(in_pieces(p) for p in [*pair.parameters(), *third]),
}
all_held = [None, None]
torch.distributed.all_gather_object(all_held, held)
gradients = put_together({name: p.grad for name, p in pair.named_parameters()})
if fabric.global_rank == 0:
    torch.save({"gradients": gradients, "held": all_held}, sys.argv[1])
"""


def test_each_process_holds_a_half_and_the_gradient_is_that_of_the_whole_sum(tmp_path):
    (tmp_path / "script.py").write_text(PIECES)
    run([sys.executable, tmp_path / "script.py", tmp_path / "found.pt", sys.path[0]])
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    whole = MetaSum(small_network(0), support=small_network(1), backend="torch").eval()
    cross_entropy(whole.summed(images()), labels()).backward()
    cross_entropy(whole.target(images()), labels()).backward()
    assert len(found["gradients"]) == len(list(whole.parameters()))
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(found["gradients"][name], parameter.grad, rtol=1e-9, atol=1e-12)
    count = sum(parameter.numel() for parameter in whole.parameters())
    for what, copies in (("parameters", 1), ("gradients", 1), ("moments", 2), ("sum", 0.5)):
        first, second = (held[what] for held in found["held"])
        assert first + second == copies * count
        assert abs(first - second) < 0.25 * copies * count  # of an odd number of rows one process has one more
    assert all(held["all in pieces"] for held in found["held"])
