#!/usr/bin/env python3
"""Writes manual pages from what a program says of itself: one of the program, one of each of its commands.

    scripts/manual-pages.py PROGRAM FOLDER [--date 2027-01-31]

In mdoc(7). The text is that of --help, so that there is one of it. The day is that of the commit unless said, so that
the same sources make the same bytes.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import textwrap

WIDTH = 78
SERVE_ENVIRONMENT = [
    ("HOLDFAST_CONFIG", "A JSON file with settings, as of --config."),
    ("HOLDFAST_*", "A setting each: HOLDFAST_MAX_HOLD is --max-hold."),
    ("CREDENTIALS_DIRECTORY", "A folder with the files tokens, tls-cert, tls-key and tls-client-ca, for the settings of "
     "these names. Their names may begin with holdfast_ or holdfast. as well."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "As systemd sets them: the server says when it is ready, reads files "
     "again and ends, and that it goes on, as long as its event loops and its journal do."),
    ("PGPASSFILE, PGSERVICEFILE", "Where libpq finds passwords, with --durability quorum."),
]
SERVE_FILES = [
    ("/etc/default/holdfast", "Variables of the packaged unit."),
    ("/etc/holdfast/credentials", "Its credentials, for root to read alone."),
    ("/var/lib/holdfast", "Its data directory."),
]
BROKER_ENVIRONMENT = [
    ("HOLDFAST_BROKER, HOLDFAST_BROKER_PASSWORD", "The broker, and its user's password: --broker and --broker-password-file."),
    ("HOLDFAST_TARGET, HOLDFAST_CA, HOLDFAST_CLIENT_CERT, HOLDFAST_CLIENT_KEY, HOLDFAST_TOKEN, HOLDFAST_TOKEN_FILE",
     "The server, and who calls it: --target, --tls-ca, --tls-cert, --tls-key, --token-file."),
    ("CREDENTIALS_DIRECTORY", "A folder with the files broker-password and token, where nothing else names them."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "As systemd sets them: it says when it is ready and ends, and that it goes "
     "on."),
]
RELAY_FILES = [
    ("/etc/default/holdfast-relay", "Variables of the packaged unit, HOLDFAST_RELAY_FLAGS among them."),
    ("/etc/holdfast/relay", "Its credentials, for root to read alone."),
    ("/var/lib/holdfast-relay/position", "Its resume file."),
]
INTAKE_FILES = [
    ("/etc/default/holdfast-intake", "Variables of the packaged unit, HOLDFAST_INTAKE_FLAGS among them."),
    ("/etc/holdfast/intake", "Its credentials, for root to read alone."),
]
# Commands that run as services.
SERVICES = {"holdfast serve": (SERVE_ENVIRONMENT, SERVE_FILES), "holdfast relay": (BROKER_ENVIRONMENT, RELAY_FILES),
            "holdfast intake": (BROKER_ENVIRONMENT, INTAKE_FILES)}


def escaped(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(['.])", r"\\&\1", text, flags=re.MULTILINE)


def prose(text):
    """A line a sentence, as mdoc wants it; what is indented stays as it is."""
    out = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        # A display stands by itself.
        if all(line.startswith("  ") for line in paragraph.splitlines()):
            out += [".Bd -literal -offset indent", *[escaped(line[2:]) for line in paragraph.splitlines()], ".Ed"]
            continue
        if out:
            out.append(".Pp")
        for sentence in re.split(r"(?<=[.:;])\s+(?=[A-Z\"(-])", " ".join(paragraph.split())):
            out += [escaped(line) for line in textwrap.wrap(sentence, WIDTH, break_on_hyphens=False, break_long_words=False)]
    return [re.sub(r"^(['.])", r"\\&\1", line) if not line.startswith((".Pp", ".Bd", ".Ed")) else line for line in out]


def names(argument):
    """As .It wants them: flags with their value."""
    if argument["kind"] == "positional":
        return ["Ar " + escaped(argument.get("valueName", "value"))]
    spelt = []
    for name in sorted(argument["names"], key=lambda name: name["kind"] != "short"):
        flag = "Fl " + ("" if name["kind"] == "short" else "\\-") + escaped(name["name"])
        spelt.append(flag + (" Ar " + escaped(argument["valueName"]) if argument["kind"] == "option" else ""))
    return spelt


def options(command, heading):
    out, section = [], None
    shown = [each for each in command.get("arguments", []) if each["shouldDisplay"]]
    shown.sort(key=lambda each: each.get("sectionTitle") or "")
    if not shown:
        return out
    if heading:
        out.append(".Sh OPTIONS")
    for title in dict.fromkeys(each.get("sectionTitle") for each in shown):
        if title:
            out.append(f".Ss {escaped(title)}")
        out.append(".Bl -tag -width Ds")
        for argument in shown:
            if argument.get("sectionTitle") != title:
                continue
            out.append(".It " + " , ".join(names(argument)))
            out += prose(argument.get("abstract", "") or "As it says.")
            if argument.get("discussion"):
                out += [".Pp", *[line for part in argument["discussion"].splitlines() for line in prose(part) + [".br"]][:-1]]
            if argument.get("defaultValue"):
                out += prose(f"Default: {argument['defaultValue']}.")
            if argument.get("isRepeating") and argument["kind"] != "positional":
                out += prose("May be given again.")
        out.append(".El")
    return out


def synopsis(path, command):
    out = [f".Nm {path[0]}" + "".join(f" Cm {word}" for word in path[1:])]
    if any(each["shouldDisplay"] and each["kind"] != "positional" for each in command.get("arguments", [])):
        out.append(".Op Ar options")
    for each in command.get("arguments", []):
        if each["kind"] == "positional" and each["shouldDisplay"]:
            dots = " ..." if each.get("isRepeating") else ""
            value = escaped(each.get("valueName", "value"))
            out.append(f".Op Ar {value}{dots}" if each["isOptional"] else f".Ar {value}{dots}")
    if command.get("subcommands"):
        out += [".Ar command", ".Op Ar ..."]
    return out


def visible(command):
    return [each for each in command.get("subcommands", []) if each["shouldDisplay"] and each["commandName"] != "help"]


def tagged(rows):
    out = [".Bl -tag -width Ds"]
    for name, text in rows:
        out += [f".It {name}", *prose(text)]
    return [*out, ".El"]


def page(path, command, date, version, others):
    name = "-".join(path)
    out = [f".Dd {date}", f".Dt {name.upper()} 1", f".Os \"Holdfast {version}\"", ".Sh NAME", f".Nm {name}",
           ".Nd " + escaped(command["abstract"].rstrip(".")), ".Sh SYNOPSIS"]
    if len(path) > 1 and visible(command):
        for each in visible(command):
            out += synopsis([*path, each["commandName"]], each)
    else:
        out += synopsis(path, command)
    out += [".Sh DESCRIPTION", *prose(command.get("discussion") or command["abstract"])]
    if len(path) == 1:
        out += [".Pp", "Its commands have a page each:"]
        out += tagged([(f"Xr {name}\\-{each['commandName']} 1", each["abstract"]) for each in visible(command)])
    else:
        for each in visible(command):
            out += [f".Ss {escaped(path[-1] + ' ' + each['commandName'])}", *prose(each["abstract"])]
            if each.get("discussion"):
                out += [".Pp", *prose(each["discussion"])]
            out += options(each, heading=False)
    if not (len(path) > 1 and visible(command)):
        out += options(command, heading=True)
    if " ".join(path) in SERVICES:
        environment, files = SERVICES[" ".join(path)]
        out += [".Sh ENVIRONMENT", *tagged([("Ev " + escaped(name), text) for name, text in environment])]
        out += [".Sh FILES", *tagged([("Pa " + name, text) for name, text in files])]
    out += [".Sh SEE ALSO", *[f".Xr {other} 1 ," for other in others[:-1]], f".Xr {others[-1]} 1"]
    return "\n".join(out) + "\n"


def day(text):
    when = datetime.date.fromisoformat(text)
    return f"{when:%B} {when.day}, {when.year}"


def committed():
    """The day of SOURCE_DATE_EPOCH, or of the commit, or today."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if not seconds:
        done = subprocess.run(["git", "log", "-1", "--format=%ct"], capture_output=True, text=True,
                              cwd=pathlib.Path(__file__).parent)
        seconds = done.stdout.strip()
    when = datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc) if seconds else datetime.datetime.now()
    return when.date().isoformat()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--date", default=committed())
    arguments = parser.parse_args()

    def ask(*flags):
        return subprocess.run([arguments.program, *flags], check=True, capture_output=True, text=True).stdout

    root = json.loads(ask("--experimental-dump-help"))["command"]
    version = ask("--version").split()[0]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    name, date = root["commandName"], day(arguments.date)
    all_names = [name, *[f"{name}-{each['commandName']}" for each in visible(root)]]
    other_program = {"holdfast": "holdfast-load", "holdfast-load": "holdfast"}.get(name)
    for path, command in [([name], root), *[([name, each["commandName"]], each) for each in visible(root)]]:
        own = "-".join(path)
        others = sorted([each for each in all_names if each != own] + ([other_program] if len(path) == 1 else []))
        (arguments.folder / f"{own}.1").write_text(page(path, command, date, version, others))


if __name__ == "__main__":
    main()
