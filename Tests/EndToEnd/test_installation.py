"""What is installed beside the programs, and what is said of the version: without a release build."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ["holdfast", "holdfast-load"]
# What each of them starts.
UNITS = {"holdfast": "holdfast serve",
         "holdfast-relay": "holdfast relay --resume-file /var/lib/holdfast-relay/position $HOLDFAST_RELAY_FLAGS",
         "holdfast-intake": "holdfast intake $HOLDFAST_INTAKE_FLAGS"}


def run(*words, **options):
    options.setdefault("timeout", 120)
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)


def need(program):
    if not shutil.which(program):
        pytest.skip(f"needs {program}")


def install(action, binary, root):
    environment = {**os.environ, "DESTDIR": str(root), "PREFIX": "/usr", "RELEASE": str(binary.parent)}
    return run(REPOSITORY / "scripts/install.sh", action, env=environment)


@pytest.fixture(scope="module")
def root(binary, generator, tmp_path_factory):
    """An installation of the programs under test."""
    root = tmp_path_factory.mktemp("root")
    done = install("install", binary, root)
    assert done.returncode == 0, done.stderr
    return root


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# MARK: make install


def test_everything_is_installed(root):
    installed = files(root)
    for program in PROGRAMS:
        for place in (f"usr/bin/{program}", f"usr/share/man/man1/{program}.1",
                      f"usr/share/bash-completion/completions/{program}", f"usr/share/zsh/site-functions/_{program}",
                      f"usr/share/fish/vendor_completions.d/{program}.fish"):
            assert place in installed
    for place in (*(f"usr/lib/systemd/system/{name}.service" for name in UNITS), "usr/lib/sysusers.d/holdfast.conf",
                  *(f"etc/default/{name}" for name in UNITS),
                  "usr/share/holdfast/proto/holdfast/v1/reservation.proto", "usr/share/holdfast/proto/retry-policy.json",
                  "usr/share/holdfast/prometheus/holdfast-ha.rules.yml", "usr/share/doc/holdfast/README.md",
                  "usr/share/doc/holdfast/docs/INSTALLATION.md"):
        assert place in installed
    for folder in ("credentials", "relay", "intake"):
        assert (root / "etc/holdfast" / folder).stat().st_mode & 0o777 == 0o700
    listed = (root / "usr/share/holdfast/installed-files").read_text().split()
    assert {"/" + each for each in installed} - set(listed) == {f"/etc/default/{name}" for name in UNITS}


def shown(page):
    """The pictures of a page, as files."""
    return [(page.parent / target).resolve() for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())]


def test_pages_are_installed_with_their_pictures(root):
    documents = root / "usr/share/doc/holdfast"
    pictures = {picture for page in documents.rglob("*.md") for picture in shown(page)}
    assert len(pictures) > 5
    assert {path.resolve() for path in documents.rglob("*") if path.suffix in (".png", ".svg")} == pictures


def test_an_installation_is_taken_away_again(binary, generator, tmp_path):
    stranger = tmp_path / "usr/share/holdfast/of-somebody-else"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("")
    assert install("install", binary, tmp_path).returncode == 0
    # Once more: what was configured stays as it is.
    default = tmp_path / "etc/default/holdfast"
    default.write_text("HOLDFAST_PORT=7000\n")
    assert install("install", binary, tmp_path).returncode == 0
    assert default.read_text() == "HOLDFAST_PORT=7000\n"
    assert install("uninstall", binary, tmp_path).returncode == 0
    assert files(tmp_path) == {"usr/share/holdfast/of-somebody-else", "etc/default/holdfast"}
    done = install("uninstall", binary, tmp_path)
    assert done.returncode == 1 and "nothing was installed there" in done.stderr


def test_what_was_not_built_is_not_installed(tmp_path):
    done = run(REPOSITORY / "scripts/install.sh", "install",
               env={**os.environ, "DESTDIR": str(tmp_path), "RELEASE": str(tmp_path / "nothing")})
    assert done.returncode == 1 and "make programs" in done.stderr
    assert files(tmp_path) == set()


# MARK: manual pages and completions


def test_the_manual_pages_are_well_formed(root):
    need("mandoc")
    pages = sorted((root / "usr/share/man/man1").glob("*.1"))
    assert len(pages) > 15
    done = run("mandoc", "-T", "lint", "-W", "warning", *pages)
    assert done.returncode == 0, done.stdout
    for page in pages:
        # Bold is a letter twice, with a backspace between.
        text = re.sub(".\b", "", run("mandoc", "-T", "utf8", page).stdout)
        assert f"{page.stem.upper()}(1)" in text and "SYNOPSIS" in text


def commands(program, binary):
    """The commands of a program and the flags of each, as it lists them itself."""
    tree = json.loads(run(binary.parent / program, "--experimental-dump-help").stdout)["command"]
    for command in tree["subcommands"]:
        if command["commandName"] != "help" and command["shouldDisplay"]:
            nested = [command, *command.get("subcommands", [])]
            yield command["commandName"], {
                name["name"] for each in nested for argument in each.get("arguments", []) if argument["shouldDisplay"]
                for name in argument.get("names", []) if name["kind"] == "long"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_and_flag_has_its_place_in_a_page(root, binary, generator, program):
    front = (root / f"usr/share/man/man1/{program}.1").read_text()
    for name, flags in commands(program, binary):
        assert f"Xr {program}\\-{name} 1" in front
        page = (root / f"usr/share/man/man1/{program}-{name}.1").read_text().replace("\\", "")
        for flag in flags:
            assert f"Fl -{flag}" in page, f"{name} --{flag}"


def test_the_same_program_makes_the_same_pages(binary, tmp_path):
    for folder in ("a", "b"):
        done = run(REPOSITORY / "scripts/manual-pages.py", binary, tmp_path / folder, "--date", "2027-01-31")
        assert done.returncode == 0, done.stderr
    for page in (tmp_path / "a").iterdir():
        assert page.read_bytes() == (tmp_path / "b" / page.name).read_bytes()
    assert ".Dd January 31, 2027" in (tmp_path / "a/holdfast.1").read_text()


@pytest.mark.parametrize("shell, place", [
    ("bash", "bash-completion/completions/{}"), ("zsh", "zsh/site-functions/_{}"),
    ("fish", "fish/vendor_completions.d/{}.fish")])
@pytest.mark.parametrize("program", PROGRAMS)
def test_completions_are_scripts_of_their_shells(root, program, shell, place):
    need(shell)
    done = run(shell, "-n", root / "usr/share" / place.format(program))
    assert done.returncode == 0 and done.stderr == ""


def test_bash_completes(root):
    script = root / "usr/share/bash-completion/completions/holdfast"
    for words, expected in (("holdfast he", "health"), ("holdfast serve --tls-ce", "--tls-cert")):
        typed = words.split(" ")
        done = run("bash", "-c", f"""
            source {script}
            COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; COMP_LINE='{words}'; COMP_POINT={len(words)}
            _holdfast holdfast {typed[-1]} {typed[-2]}
            echo "${{COMPREPLY[@]}}" """)
        assert expected in done.stdout.split(), done


# MARK: the unit


@pytest.fixture(params=UNITS)
def unit(root, tmp_path, request):
    """A unit, with the programs where they are."""
    text = (root / f"usr/lib/systemd/system/{request.param}.service").read_text()
    assert f"ExecStart=/usr/bin/{UNITS[request.param]}\n" in text and "@" not in re.sub(r"@[a-z-]+\b(?!@)", "", text)
    path = tmp_path / f"{request.param}.service"
    # What starts a unit first is none of this.
    path.write_text(re.sub(r" holdfast.service rabbitmq-server.service$", "", text, flags=re.MULTILINE)
                    .replace("/usr/bin/", f"{root}/usr/bin/"))
    return path


def test_the_unit_is_one_that_systemd_takes(unit):
    need("systemd-analyze")
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    broken = unit.with_name("broken.service")
    broken.write_text(unit.read_text().replace("ExecStart=/", "ExecStart=/nowhere/"))
    assert run("systemd-analyze", "verify", "--man=no", broken).returncode != 0


def test_the_unit_is_hardened(unit):
    need("systemd-analyze")
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    exposure = float(re.search(rf"Overall exposure level for {unit.name}: ([\d.]+)", done.stdout)[1])
    assert exposure <= 1.5, done.stdout


def test_every_setting_of_the_default_file_is_one(binary, root):
    text = (root / "etc/default/holdfast").read_text()
    variables = re.findall(r"^#?(HOLDFAST_\w+)=(.*)$", text, re.MULTILINE)
    assert len(variables) > 4
    shown = run(binary, "serve", "--print-config", env={**os.environ, **dict(variables)}).stdout
    for name, value in variables:
        assert f"= {value}  ({name})" in shown


# MARK: the container


def test_the_containerfile_is_linted():
    hadolint = REPOSITORY / ".venv/bin/hadolint"
    if not hadolint.exists():
        pytest.skip("needs hadolint")
    done = run(hadolint, REPOSITORY / "deploy/Containerfile")
    assert done.returncode == 0, done.stdout


def test_the_container_is_what_it_says(binary):
    text = (REPOSITORY / "deploy/Containerfile").read_text()
    last = text[text.rindex("\nFROM "):]
    assert re.search(r"^USER (\d+):\1$", last, re.MULTILINE)[1] != "0"
    assert text.count("\nFROM ") == 2 and 'CMD ["holdfast", "health"]' in last and 'ENTRYPOINT ["holdfast"]' in last
    # Only files of the build stage, and no toolchain with them.
    assert all("--from=build" in each for each in re.findall(r"^COPY .*", last, re.MULTILINE))
    variables = dict(re.findall(r"(HOLDFAST_\w+)=(\S+)", last))
    shown = run(binary, "serve", "--print-config", env={**os.environ, **variables}).stdout
    for name, value in variables.items():
        assert f"= {value}  ({name})" in shown


# MARK: the version


@pytest.fixture
def checkout(tmp_path):
    """A repository of its own, with what the scripts of the version want, committed."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("stamp-version.sh", "version.sh", "release.sh"):
        shutil.copy(REPOSITORY / "scripts" / name, folder / "scripts" / name)
    shutil.copytree(REPOSITORY / "Sources/CVersion", folder / "Sources/CVersion", ignore=shutil.ignore_patterns("stamp.c"))
    for name in ("Package.swift", ".gitattributes", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "LoadTest").mkdir()
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.1.0 - 2027-01-31\n\n- First.\n")
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    return folder


def git(folder, *words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = run("git", "-c", "user.name=T", "-c", "user.email=t@localhost", *words, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "A commit")
    return git(folder, "rev-parse", "HEAD")


def said(folder, tmp_path):
    """What a program would say that is built there."""
    main = tmp_path / "main.c"
    main.write_text('#include <stdio.h>\n#include "CVersion.h"\nint main(void) { puts(hf_version_commit()); }\n')
    sources = sorted((folder / "Sources/CVersion").glob("*.c"))
    done = run("cc", "-I", folder / "Sources/CVersion/include", "-o", tmp_path / "main", main, *sources)
    assert done.returncode == 0, done.stderr
    return run(tmp_path / "main").stdout.strip()


def test_a_build_knows_its_commit(checkout, tmp_path):
    need("cc")
    head = git(checkout, "rev-parse", "HEAD")
    stamp = checkout / "Sources/CVersion/stamp.c"

    def stamped():
        assert run(checkout / "scripts/stamp-version.sh").returncode == 0
        return said(checkout, tmp_path)

    assert said(checkout, tmp_path) == "" and stamped() == head
    # Nothing is built again while it stays so.
    before = stamp.stat().st_mtime_ns
    (checkout / "README.md").write_text("of no interest to a build")
    assert stamped() == head and stamp.stat().st_mtime_ns == before
    (checkout / "LoadTest/new.swift").write_text("")
    assert stamped() == f"{head}-dirty"
    head = commit(checkout)
    assert stamped() == head


def test_a_source_archive_knows_its_commit(checkout, tmp_path):
    need("cc")
    head = git(checkout, "rev-parse", "HEAD")
    git(checkout, "archive", "-o", str(tmp_path / "source.tar"), "HEAD")
    # Within a checkout of something else, as packagers have it.
    inside = checkout / "inside"
    inside.mkdir()
    assert run("tar", "xf", tmp_path / "source.tar", "-C", inside).returncode == 0
    assert run(inside / "scripts/stamp-version.sh").returncode == 0
    assert said(inside, tmp_path) == head


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_say_their_version(binary, generator, program):
    done = run(binary.parent / program, "--version")
    number = re.search(r'HF_VERSION "(.*)"', (REPOSITORY / "Sources/CVersion/include/CVersion.h").read_text())[1]
    assert re.fullmatch(rf"{re.escape(number)} \((debug build|commit ([0-9a-f]{{12}}(-dirty)?|unknown))\)\n", done.stdout)


# MARK: releases


def tag(folder, name="v0.1.0"):
    git(folder, "tag", "-a", "-m", "Holdfast", name)


def edit(folder, name, before, after):
    path = folder / name
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


def release_check(folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return run(folder / "scripts/release.sh", "--check", cwd=folder, env=environment)


def test_a_commit_that_is_a_release(checkout):
    tag(checkout)
    done = release_check(checkout)
    assert done.returncode == 0 and "this commit is 0.1.0" in done.stderr, done.stderr


HEADER = "Sources/CVersion/include/CVersion.h"


@pytest.mark.parametrize("spoil, says", [
    (lambda folder: None, "there is no tag v0.1.0"),
    (lambda folder: git(folder, "tag", "v0.1.0"), "v0.1.0 has no message"),
    (lambda folder: (tag(folder), commit(folder)), "v0.1.0 is another commit than HEAD"),
    (lambda folder: (tag(folder), edit(folder, "Package.swift", "holdfast", "other")), "not as committed"),
    (lambda folder: (edit(folder, HEADER, "0.1.0", "0.2.0"), commit(folder), tag(folder)), "no tag v0.2.0"),
    (lambda folder: (edit(folder, HEADER, "0.1.0", "next"), commit(folder), tag(folder)), "not X.Y.Z"),
    (lambda folder: (edit(folder, "CHANGELOG.md", " - 2027-01-31", ""), commit(folder), tag(folder)), "no line '## 0.1.0 - "),
    (lambda folder: (edit(folder, "CHANGELOG.md", "- First.", ""), commit(folder), tag(folder)), "says nothing of 0.1.0"),
    (lambda folder: (edit(folder, "CHANGELOG.md", "Unreleased\n", "Unreleased\n\n- More.\n"), commit(folder), tag(folder)),
     "under Unreleased still"),
], ids=["no tag", "light tag", "elsewhere", "changed", "other number", "no number", "no date", "no words", "unreleased"])
def test_a_commit_that_is_no_release(checkout, spoil, says):
    spoil(checkout)
    done = release_check(checkout)
    assert done.returncode == 1 and says in done.stderr, done.stderr
