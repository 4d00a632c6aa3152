"""Runs headstart's commands for tests: in this process or, where the process is the point, in one of their own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from headstart.cli import run

SCREEN = {"NO_COLOR": "1", "COLUMNS": "100"}


@contextlib.contextmanager
def in_process(cache):
    """A function WORDS… → CompletedProcess, for as long as the block lasts; ``code`` is the exit code that is right."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HEADSTART_CACHE": str(cache), **SCREEN}.items():
            patch.setenv(name, value)

        def call(*words, code=0):
            out, err = io.StringIO(), io.StringIO()
            words = [str(word) for word in words]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                result = run(words)
            return checked(CompletedProcess(words, result, out.getvalue(), err.getvalue()), code)

        yield call


def on_its_own(cache, *words, code=0, **env):
    """The same as a user's shell does it."""
    words = [sys.executable, "-m", "headstart", *map(str, words)]
    env = {**os.environ, "HEADSTART_CACHE": str(cache), **SCREEN, **env}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, env=env)
    return checked(done, code)


def checked(done, code):
    """What was printed, if the exit code is right."""
    assert done.returncode == code, f"{done.args} → {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done


def dark_and_light(folder: Path, each: int, side: int = 16) -> Path:
    """Two class folders of tiny pictures that differ in brightness."""
    rng = np.random.default_rng(0)
    for label, low in (("dark", 0), ("light", 150)):
        (folder / label).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(low, low + 80, (side, side, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder
