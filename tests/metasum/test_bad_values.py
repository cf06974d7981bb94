"""Bad values on the command line: one clear line, nothing half-written."""

import pytest
import torch
from refusal import nothing_written, refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "minst"], ["unknown dataset 'minst'", "did you mean 'mnist'?"]),
        (["--learner", "metasom"], ["unknown learner 'metasom'", "did you mean 'metasum'?"]),
        (["--norm", "bach"], ["unknown value for --norm 'bach'", "did you mean 'batch'?"]),
        (["--reading", "gapp"], ["did you mean 'gap'?"]),
        (["--stepz", "4"], ["--stepz", "--steps"]),
        (["--steps", "0"], ["--steps must be at least 1, not 0"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--width", "0"], ["--width must be greater than 0"]),
        (["--learning-rate", "nan"], ["--learning-rate takes a finite number"]),
        (["--dropout", "1"], ["--dropout must be less than 1"]),
        (["--in-channels", "17"], ["--in-channels must be at most 16, not 17"]),
        (["--num-classes", "3"], ["--num-classes 3 is too few: the datasets have 4 classes"]),
        (["--symmetric=perhaps"], ["--symmetric takes true or false, not 'perhaps'"]),
        (["--learner", "independent", "--sum-weight", "2"], ["--sum-weight says nothing to learner 'independent'"]),
        (["--learner", "independent", "--statistics", "learned"], ["does not run the sum in training"]),
        (["--precision", "16-mixed"], ["--precision 16-mixed needs a GPU"]),
        (["--plugin", "nowhere.py"], ["there is no plugin file nowhere.py"]),
        (["--name", "../elsewhere"], ["--name '../elsewhere' does not work", "folder's name"]),
        (["--name", ""], ["--name '' does not work"]),
        (["--target", "/etc/rows"], ["a dataset called '/etc/rows' does not work"]),
        (["--resume", "--overwrite"], ["ask for opposite things"]),
        (["--seed", str(2**64)], ["--seed must be less than"]),
        (["--init-seed", str(2**64)], ["--init-seed must be less than"]),
        (["--init", "x.safetensors", "--init-seed", "3"], ["--init and --init-seed"]),
        (["--network", "resnet", "--dropout", "0.5"], ["--dropout says nothing to network 'resnet'"]),
        (["--momentum", "0.5"], ["--momentum says nothing to optimizer 'adam'"]),
        (["--warmup", "6"], ["--warmup 6 leaves nothing of --steps 6"]),
        (["extra"], ["extra"]),
    ],
    ids=lambda value: "" if isinstance(value[0], str) and " " in value[0] else "_".join(value),
)
def test_a_value_that_makes_no_sense(metasum, tiny, tmp_path, flags, words):
    refused(metasum("train", *tiny, *flags), 2, *words)
    assert nothing_written(tmp_path)


def test_an_unknown_command_gets_the_nearest_one(metasum):
    refused(metasum("trian"), 2, "unknown command 'trian'; did you mean 'train'?")


def test_cuda_without_cuda(metasum, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(metasum("train", *tiny, "--device", "cuda"), 2, "no CUDA device", "--device cpu")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_like_it", ["line 1", "ModuleNotFoundError"]),
        ("x = 1\nraise RuntimeError('no luck')", ["line 2", "no luck"]),
        ("def f(:", ["is not Python", "line 1"]),
        ("import sys\nsys.exit(0)", ["line 2", "SystemExit"]),
        (
            "from metasum.tasks import register_dataset\nregister_dataset('digits', lambda: None)",
            ["there is a dataset 'digits' already"],
        ),
    ],
    ids=["import", "raise", "syntax", "exit", "taken"],
)
def test_a_plugin_that_fails(metasum, tiny, tmp_path, text, words):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(text)
    refused(metasum("train", *tiny, "--plugin", plugin), 2, *words)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ["not enough memory", "--width"]),
        (MemoryError(), ["not enough memory"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), ["not enough memory"]),
        (RuntimeError("unsupported memory format option"), ["RuntimeError: unsupported memory format option (METASUM"]),
        (ValueError("memory_format must be one of"), ["ValueError: memory_format must be one of (METASUM_DEBUG=1"]),
        (LookupError("surprise\nsecond line"), ["LookupError: surprise (METASUM_DEBUG=1 shows where)"]),
    ],
    ids=["allocator", "memory", "cuda", "memory format", "memory_format", "anything"],
)
def test_what_nobody_foresaw_is_one_line_too(metasum, tiny, tmp_path, monkeypatch, error, words):
    def failing(*_args, **_keywords):
        raise error

    monkeypatch.setattr("metasum.run.parts.build_network", failing)
    refused(metasum("train", *tiny), 1, *words)
    assert nothing_written(tmp_path)
    monkeypatch.setenv("METASUM_DEBUG", "1")
    with pytest.raises(type(error)):
        metasum("train", *tiny)
