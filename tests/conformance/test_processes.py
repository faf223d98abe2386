"""Implementations as processes: what they leave behind is ended, and nobody waits for it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import psutil

from conformance_tests.engine.processes import Process
from conformance_tests.engine.targets import load

ESCAPES = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print("address=tcp://127.0.0.1:1 monitor=- child", child.pid, flush=True)
time.sleep(600)
"""


def test_what_has_left_its_session_does_not_keep_the_suite_waiting() -> None:
    spec = replace(load("reference").roles["scheduler"], start=(sys.executable, "-c", ESCAPES))
    process = Process(spec, {}, {})
    process.ready(spec)
    (child,) = [int(found[1]) for line in process.lines if (found := re.search(r"child (\d+)", line))]
    escaped = psutil.Process(child)
    process.stop()
    psutil.wait_procs([escaped], timeout=30)
    assert not escaped.is_running()
