"""examples/ as they are read: what they have in common, and what can be said of those that are not run here."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree

import pytest

from conftest import REPOSITORY
from holdfast.v1 import event_pb2, reservation_pb2, stock_pb2

EXAMPLES = REPOSITORY / "examples"
SOURCES = {"python": "checkout.py", "go": "checkout.go", "java": "src/main/java/Checkout.java", "ruby": "checkout.rb",
           "cpp": "checkout.cc", "swift": "Sources/Checkout/*.swift", "node": "checkout.js", "csharp": "Checkout.cs"}
BUILD_FILES = {"python": "requirements.txt", "go": "go.mod", "java": "pom.xml", "ruby": "Gemfile", "cpp": "CMakeLists.txt",
               "swift": "Package.swift", "node": "package.json", "csharp": "Checkout.csproj"}
FLAGS = ["target", "sku", "units", "order", "attempt", "stock", "ttl", "payment", "deadline", "tls-ca", "tls-name"]
MESSAGES = {name: message for module in (reservation_pb2, stock_pb2, event_pb2)
            for name, message in module.DESCRIPTOR.message_types_by_name.items()}


def source(language):
    return "".join(path.read_text() for path in sorted((EXAMPLES / language).glob(SOURCES[language])))


def test_there_is_one_in_each_language():
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    # Orders through a queue are shown once, in Python: test_orders.py.
    assert folders == SOURCES.keys() | {"orders"}


@pytest.mark.parametrize("language", SOURCES)
def test_each_is_whole(language):
    folder, text = EXAMPLES / language, source(language)
    for name in ("README.md", "Makefile", BUILD_FILES[language]):
        assert (folder / name).exists(), name
    for name in ("HOLDFAST_TARGET", "HOLDFAST_TLS_CA", "HOLDFAST_TOKEN"):
        assert name in text, name
    # Swift's argument parser makes the names of flags from those of variables.
    names = ["tlsCa", "tlsName"] if language == "swift" else ["tls-ca", "tls-name"]
    for name in [*FLAGS[:-2], *names]:
        assert re.search(rf"\b{name}\b", text), name
    # The policy is the shared file, not a copy.
    built = text + "".join(path.read_text() for path in folder.iterdir() if path.is_file())
    assert "retry-policy.json" in built and "initialBackoff\":" not in built


def test_swift_links_to_the_policy():
    link = EXAMPLES / "swift/Sources/Checkout/retry-policy.json"
    assert link.is_symlink() and link.resolve() == REPOSITORY / "proto/retry-policy.json"


def test_the_build_files_that_are_not_used_here_can_be_read():
    json.loads((EXAMPLES / "node/package.json").read_text())
    for path in ("java/pom.xml", "csharp/Checkout.csproj"):
        xml.etree.ElementTree.parse(EXAMPLES / path)


@pytest.mark.skipif(not shutil.which("node"), reason="no node here")
def test_node_takes_it():
    done = subprocess.run(["node", "--check", "checkout.js"], cwd=EXAMPLES / "node", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_node_sends_what_the_api_has():
    """proto-loader ignores a field that it does not know: a misspelt one is never sent, and nothing says so."""
    text, seen = source("node"), 0
    for call, fields in re.findall(r"'(AdjustStock|Reserve|Release|Confirm)', \{(.*?)\}\)", text, re.DOTALL):
        known = {field.camelcase_name for field in MESSAGES[f"{call}Request"].fields}
        fields = re.sub(r"//.*|\[\{.*?\}\]|\{[^}]*\}|`[^`]*`|'[^']*'", "", fields)
        names = set(re.findall(r"(?:^|[,{])\s*(\w+)(?=\s*[:,}]|\s*$)", fields))
        assert names and names <= known, (call, names - known)
        seen += 1
    assert seen == 4
    known = {field.camelcase_name for field in MESSAGES["WatchRequest"].fields}
    assert set(re.findall(r"request\.(\w+)", text)) | {"referencePrefix", "kinds"} <= known


def pascal(name):
    return "".join(part.capitalize() for part in name.split("_"))


def test_csharp_names_what_the_api_has():
    text, seen = source("csharp"), 0
    for message, fields in re.findall(r"new (\w+)(?:\s*)\{(.*?)\}", text, re.DOTALL):
        if message in MESSAGES:
            known = {pascal(field.name) for field in MESSAGES[message].fields}
            names = set(re.findall(r"(?:^|,|\{)\s*(?://.*\n\s*)?([A-Z]\w*) =", fields))
            assert names and names <= known, (message, names - known)
            seen += 1
    assert seen >= 6
    kinds = {pascal(name.removeprefix("EVENT_KIND_")) for name in event_pb2.EventKind.keys()}
    assert set(re.findall(r"\bEventKind\.(\w+)", text)) <= kinds
    states = {pascal(name.removeprefix("RESERVATION_STATE_")) for name in reservation_pb2.ReservationState.keys()}
    assert set(re.findall(r"\bReservationState\.(\w+)", text)) <= states


PARSE = """
import sys, tree_sitter, tree_sitter_c_sharp
parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_c_sharp.language()))
sys.exit(parser.parse(open(sys.argv[1], "rb").read()).root_node.has_error)
"""


@pytest.mark.clients
def test_csharp_parses(tmp_path):
    python, broken = REPOSITORY / ".venv-clients/bin/python", tmp_path / "broken.cs"
    broken.write_text(source("csharp").replace("public static async Task<int> Main(", "public static Main)", 1))
    assert subprocess.run([python, "-c", PARSE, EXAMPLES / "csharp/Checkout.cs"]).returncode == 0
    assert subprocess.run([python, "-c", PARSE, broken]).returncode == 1
