"""What the README tells people to paste works when pasted."""

import pathlib
import re
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()


def blocks():
    return re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_call_from_python(server, tmp_path):
    (script,) = [block for block in blocks() if "grpc_tools.protoc" in block]
    script = script.replace(".venv/bin/python", sys.executable).replace("out/python", str(tmp_path))
    script = script.replace("127.0.0.1:7420", server.target)
    done = subprocess.run(["bash", "-euc", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "on_hand: 98" in done.stdout


def test_every_target_it_names_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "serve"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
