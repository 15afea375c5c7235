"""What an example says at its head can be pasted, and gets an answer."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from programs import PATIENCE, Program

EXAMPLES = Path(__file__).parents[2] / "examples"
ANSWERS = {
    "echo_server.py": "b'hello\\n'\n",
    "line_server.py": "which word?\n warp 1\n bye\n\n",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_line_at_the_head_of_a_server_gets_an_answer(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    line = re.search(r"Talk to it:\n((?: +.*\n)+)", text)
    assert line
    with Program([sys.executable, str(EXAMPLES / name), "0"]) as server:
        pasted = (
            line[1]
            .strip()
            .replace("python", shlex.quote(sys.executable), 1)
            .replace("5000", str(server.wait_for_port()))
        )
        done = subprocess.run(["sh", "-c", pasted], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == ANSWERS[name], done.stderr
