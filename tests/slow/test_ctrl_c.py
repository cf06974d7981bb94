"""Ctrl-C at any of the first imports is one line, or nothing."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

INTERRUPTING = """
import os, signal, sys
count, after = 0, int(os.environ["AFTER"])
def hear(event, arguments):
    global count
    if event == "import" and (count or arguments[0].startswith("metasum.entry")):
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(hear)
"""


@pytest.mark.parametrize("place", range(12))
def test_ctrl_c_while_it_starts(tmp_path, place):
    """At the first imports, one by one and then further apart."""
    (tmp_path / "usercustomize.py").write_text("")
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    after = [2, 3, 5, 9, 17, 33, 60, 90, 120, 160, 200, 240][place]
    paths = os.pathsep.join([str(tmp_path), os.getcwd()])
    environment = os.environ | {"AFTER": str(after), "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-m", "metasum", "learners"], capture_output=True, text=True, timeout=200, env=environment
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 130), done
    if done.returncode:
        assert done.stderr.count("metasum: ") == 1
