"""docs/BENCHMARKING.md: every command of it, shortened, against a server and agents of the test's own."""

import os
import pathlib
import re
import shlex
import subprocess

import pytest

from server import Server
from test_load_agents import Agent

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/BENCHMARKING.md"
BLOCKS = [block.replace("\\\n", " ").strip().splitlines()
          for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)]
SECRET = "sixteen bytes or more"


@pytest.fixture(scope="module")
def server(binary):
    with Server(binary, "--durability", "memory") as running:
        yield running


def shortened(text, server):
    """The words of a command, with a second where it has many, and the test's server where it has one."""
    text = re.sub(r"--(duration|step-seconds) \d+", r"--\1 0.5", text)
    text = re.sub(r"--rate \d+", "--rate 200", text)
    text = re.sub(r"--(operations) \d+", r"--\1 200", text)
    # It is steady after 20 slices at the earliest.
    text = re.sub(r"--warm-up auto(:\S+)?", "--warm-up auto:3s --interval 0.05", text)
    text = re.sub(r"--metrics-port \d+", "--metrics-port 0", text)
    text = text.replace("127.0.0.1:7421", f"127.0.0.1:{server.admin_port}")
    words = shlex.split(text)
    environment = {}
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        environment[name] = value
    assert words.pop(0) == "holdfast-load", text
    return words, {**os.environ, **environment}


def test_every_command(generator, server, tmp_path):
    agents = []
    ran = 0
    try:
        for block in BLOCKS:
            for text in block:
                words, environment = shortened(text, server)
                ran += 1
                if words[0] == "agent":
                    # Its address is another machine's: here it is on loopback, and there are two of it.
                    allowed = words[words.index("--allow-target") + 1]
                    assert environment["HOLDFAST_LOAD_SECRET"] == SECRET and allowed == "10.0.0.9:7420"
                    agents = [Agent(generator, "--allow-target", server.target, secret=SECRET) for _ in range(2)]
                    continue
                if "--agents" in words:
                    words[words.index("--agents") + 1] = ",".join(agent.address for agent in agents)
                    words[words.index("--target") + 1] = server.target
                elif words[0] in ("run", "find-knee"):
                    words += ["--target", server.target]
                if words[0] == "find-knee":
                    # Its answer is the machine's; that it is told is what counts.
                    words += ["--warm-up", "0", "--resolution", "100"]
                done = subprocess.run([generator, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                                      env=environment)
                assert done.returncode in ([0, 2] if words[0] == "find-knee" else [0]), f"{text}\n{done.stdout}{done.stderr}"
                assert "Error" not in done.stderr, done.stderr
    finally:
        for agent in agents:
            agent.stop()
    assert ran >= 15
    for file in ("closed.html", "open.html", "junit.xml", "report.json", "difference.html", "compare.xml", "run.history",
                 "findings.json"):
        assert (tmp_path / file).stat().st_size > 0, file
