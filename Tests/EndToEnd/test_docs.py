"""What the documents tell people to paste works when pasted; what they point at is there."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import grpc
import pytest
from client import Client, refused
from server import Server, holdfast

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/ARCHITECTURE.md", "docs/FORMAT.md",
         "docs/OPERATIONS.md",
         "tools/bench/README.md", "LoadTest/README.md"]
TEXT = {page: (REPOSITORY / page).read_text() for page in PAGES}
COMMANDS = [(page, block) for page in PAGES for block in
            re.findall(r"^```sh\n(.*?)^```", TEXT[page], re.MULTILINE | re.DOTALL)]
# Blocks that are not run here, by how their lines begin, and why. Their targets and flags are checked.
NOT_RUN = {
    "make": "builds, or is the suite that runs this",
    "tools/bench/ratio.py": "measures the release build for minutes",
    ".build/release/": "needs the release build",
    "HOLDFAST": "needs the release build",
    "holdfast-load": "needs the release build",
}


def lines(block):
    """Its commands, without comments; lines that go on are one."""
    joined = block.replace("\\\n", " ")
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines()) if line]


def test_the_first_call_from_python(server, tmp_path):
    (script,) = [block for _, block in COMMANDS if "grpc_tools.protoc" in block]
    script = script.replace(".venv/bin/python", sys.executable).replace("out/python", str(tmp_path))
    script = script.replace("127.0.0.1:7420", server.target)
    done = subprocess.run(["bash", "-euc", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "on_hand: 98" in done.stdout


def test_verify_repair_dump(binary, tmp_path):
    """The README's three, on a directory that a server has left."""
    (block,) = [block for page, block in COMMANDS if page == "README.md" and block.startswith("holdfast verify")]
    with Server(binary, data=tmp_path / "data"):
        pass
    state = holdfast(binary, "verify", tmp_path / "data").stdout.split()
    assert state[0] == "state"
    for line in lines(block):
        arguments = shlex.split(line.replace("DIR", str(tmp_path / "data")).replace("LSN", state[1]))
        done = holdfast(binary, *arguments[1:])
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_tls_and_tokens(binary, tmp_path):
    """The README's way from nothing to a server with both."""
    (block,) = [block for _, block in COMMANDS if block.startswith("openssl req")]
    certify, create, serve = lines(block)
    subprocess.run(shlex.split(certify), cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([binary, *shlex.split(create)[1:]], cwd=tmp_path, check=True, capture_output=True, text=True)
    flags = [tmp_path / word if "." in word or word == "tokens" else word for word in shlex.split(serve)[2:]]
    with Server(binary, *flags) as server:
        credentials = grpc.ssl_channel_credentials((tmp_path / "server.pem").read_bytes())
        target = f"localhost:{server.port}"
        with Client(target, credentials=credentials, token=done.stdout.strip()) as client:
            with refused(grpc.StatusCode.NOT_FOUND):
                client.level("nothing")
        with Client(target, credentials=credentials) as client:
            with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING"):
                client.level("nothing")


OPERATIONS = [line for page, block in COMMANDS if page == "docs/OPERATIONS.md" for line in lines(block)]


def test_operations(binary, tmp_path):
    """What the page says to do, in its order, on a directory that a server works with."""
    names = {name: tmp_path / name.lower() for name in ("DATA", "BACKUP", "ARCHIVE", "NEW")}
    with Server(binary, "--archive", names["ARCHIVE"], data=names["DATA"]) as server, Client(server.target) as client:
        sku = client.item(10)
    lsn = re.search(r"up to (\d+)", holdfast(binary, "verify", names["DATA"]).stderr)[1]
    moment = None
    for text in OPERATIONS:
        words = [str(names.get(word, word)) for word in shlex.split(text)[1:]]
        words = [lsn if word == "LSN" else moment if word.endswith("Z") else word for word in words]
        if words[0] == "serve":
            data = words.index("--data-dir")
            with Server(binary, *words[1:data], *words[data + 2:], data=words[data + 1]) as server:
                with Client(server.target) as client:
                    assert client.level(sku).on_hand == 10, text
            continue
        if words[0] == "restore":
            shutil.rmtree(names["NEW"], ignore_errors=True)
        if "HOST:PORT" in words:
            shutil.rmtree(names["BACKUP"])
            with Server(binary, data=names["DATA"]) as server:
                done = holdfast(binary, *[server.target if word == "HOST:PORT" else word for word in words])
        else:
            done = holdfast(binary, *words)
        assert done.returncode == 0, f"{text}: {done.stderr}"
        if words[0] == "backup":
            moment = done.stdout.split()[2]
        if words[0] in ("backup", "restore"):
            lsn = done.stdout.split()[1]
        if words[0] == "verify":
            lsn = re.search(r"up to (\d+)", done.stderr)[1]


def test_every_command_is_run_or_has_a_reason_why_not():
    for page, block in COMMANDS:
        if page == "docs/OPERATIONS.md" or "grpc_tools.protoc" in block or block.startswith(("holdfast verify", "openssl req")):
            continue
        for line in lines(block):
            assert line.startswith(tuple(NOT_RUN)), f"{page}: nothing runs {line!r}"


@pytest.mark.parametrize("page", PAGES)
def test_every_target_it_names_exists(page):
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT[page], re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_flags_of_the_measuring_tools_exist():
    help_text = subprocess.run([sys.executable, REPOSITORY / "tools/bench/ratio.py", "--help"],
                               capture_output=True, text=True, check=True).stdout
    for _, block in COMMANDS:
        for line in lines(block):
            if line.startswith("tools/bench/ratio.py"):
                for flag in re.findall(r"--[a-z-]+", line):
                    assert flag in help_text, flag


def test_the_flags_it_gives_to_the_programs_exist(binary, generator):
    helps = {name: holdfast(*command, "--help").stdout for name, command in {
        "make serve": (binary, "serve"), "make load": (generator, "run"),
        "holdfast-load compare": (generator, "compare")}.items()}
    seen = 0
    for text in TEXT.values():
        for name, arguments in re.findall(r"(make serve|make load) ARGS='([^']*)'", text) + re.findall(
                r"^(holdfast-load compare) (.*(?:\\\n.*)*)", text, re.MULTILINE):
            for flag in re.findall(r"(?<!\S)--[a-z-]+", re.sub(r"'[^']* serve [^']*'", "", arguments)):
                assert flag in helps[name], f"{name}: {flag}"
                seen += 1
    assert seen > 4


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if not target.startswith(("http://", "https://")):
            path = (REPOSITORY / page).parent / target.split("#")[0]
            assert path.exists(), f"{page}: {target}"


def test_the_byte_tables_are_those_of_the_code():
    done = subprocess.run([sys.executable, REPOSITORY / "scripts/format-page.py", "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_comment_cites_a_page_that_is_not_there():
    tracked = subprocess.run(["git", "ls-files", "*.swift", "*.c", "*.h", "*.py", "*.sh", "*.proto", "*.md"],
                             cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    for path in tracked:
        for cited in re.findall(r"\bdocs/[A-Z]+\.md\b", (REPOSITORY / path).read_text()):
            assert (REPOSITORY / cited).exists(), f"{path} cites {cited}"
