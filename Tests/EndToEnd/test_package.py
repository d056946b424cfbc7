"""The Debian packages of the release build, in a root that has nothing but Debian's smallest system: `make test-package`.

Wants to be root, and a mirror of Debian's packages; HOLDFAST_BARE_ROOT names a root that debootstrap has made before. What
docs/INSTALLATION.md tells people to type is typed there.
"""

import hashlib
import os
import pathlib
import platform
import re
import shlex
import shutil
import stat
import subprocess
import time

import grpc
import pytest
from client import Client, line, refused
from server import READY
from test_docs import COMMANDS, lines

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RELEASE = pathlib.Path(os.environ.get("HOLDFAST_RELEASE", REPOSITORY / ".build/release")).absolute()
PROGRAMS = ["holdfast", "holdfast-load"]
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# What no machine without the toolchain has.
TOOLCHAIN = re.compile(r"swift|Foundation|dispatch|BlocksRuntime|_FoundationICU|/opt/|libcurl|libxml2|libicu")
# Of lintian's words those that are meant to be so, and why.
ALLOWED = {
    "initial-upload-closes-no-bugs": "it is no upload to Debian",
    "non-standard-dir-perm": "credentials are root's alone",
}

pytestmark = pytest.mark.package


def run(*words, check=True, **options):
    options.setdefault("timeout", 600)
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The packages, by their names."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root")
    folder = tmp_path_factory.mktemp("dist")
    done = run(REPOSITORY / "scripts/build-deb.sh", folder, env={**os.environ, "RELEASE": str(RELEASE)})
    made = [pathlib.Path(each) for each in done.stdout.split()]
    return {path.name.split("_")[0]: path for path in made}


class Root:
    """A system below a folder, which shares the network with this one."""

    def __init__(self, path):
        self.path = path
        if made := os.environ.get("HOLDFAST_BARE_ROOT"):
            run("cp", "--archive", f"{made}/.", path)
        else:
            codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
            run("debootstrap", "--variant=minbase", codename, path)
        # The server's user has to get in.
        path.chmod(0o755)
        shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
        # As this machine reaches the mirror.
        for file in pathlib.Path("/etc/apt/apt.conf.d").glob("*proxy*"):
            shutil.copy(file, path / "etc/apt/apt.conf.d" / file.name)

    def command(self, *words):
        """What runs a command there; its /proc goes with it."""
        inside = f"mount -t proc proc '{self.path}/proc' && exec chroot '{self.path}' \"$@\""
        return ["unshare", "--mount", "sh", "-c", inside, "sh", *map(str, words)]

    def run(self, *words, check=True, **environment):
        variables = {"PATH": SYSTEM_PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        variables |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        return run(*self.command(*words), check=check, env=variables | environment)

    def files(self):
        """Every file and folder that is not the package manager's own."""
        skipped = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "proc", "sys", "dev", "tmp", "root", "run")
        found = {}
        for folder, folders, names in os.walk(self.path):
            place = os.path.relpath(folder, self.path)
            folders[:] = [each for each in folders if os.path.normpath(f"{place}/{each}") not in skipped]
            for name in folders + names:
                path = os.path.join(folder, name)
                is_file = os.path.isfile(path) and not os.path.islink(path)
                found[os.path.normpath(f"{place}/{name}")] = (
                    hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if is_file else "")
        return found


@pytest.fixture(scope="module")
def root(packages, tmp_path_factory):
    root = Root(tmp_path_factory.mktemp("root"))
    assert not list(root.path.rglob("*swift*"))
    for path in packages.values():
        shutil.copy(path, root.path / "root" / path.name)
    root.run("apt-get", "-qy", "update")
    yield root
    shutil.rmtree(root.path)


@pytest.fixture(scope="module")
def installed(root, packages):
    """With the server's package and what it depends on; how long that took, and what was there before."""
    # First what it depends on, so that the rest is Holdfast's own.
    depends = run("dpkg-deb", "--field", packages["holdfast"], "Depends").stdout
    root.run("apt-get", "-qy", "--no-install-recommends", "install", *[
        each.split("|")[0].split("(")[0].strip() for each in depends.split(",")])
    root.before = root.files()
    began = time.monotonic()
    root.run("apt-get", "-qy", "--no-install-recommends", "install", f"/root/{packages['holdfast'].name}",
             f"/root/{packages['holdfast-load'].name}")
    root.installed_in = time.monotonic() - began
    return root


class Service:
    """The server as the unit starts it, without systemd: its user, its environment, its command."""

    def __init__(self, root, *, prefix=(), **environment):
        unit = (root.path / "usr/lib/systemd/system/holdfast.service").read_text()
        variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.MULTILINE))
        (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        (user,) = re.findall(r"^User=(.*)$", unit, re.MULTILINE)
        (default,) = re.findall(r"^EnvironmentFile=-(.*)$", unit, re.MULTILINE)
        for text in (root.path / default.lstrip("/")).read_text().splitlines():
            if text and not text.startswith("#"):
                variables.update([text.split("=", 1)])
        variables |= {"HOLDFAST_PORT": "0", "HOLDFAST_ADMIN_PORT": "0", "PATH": SYSTEM_PATH, **environment}
        inside = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--no-new-privs", "--bounding-set=-all",
                  "sh", "-c", f"cd /var/lib/holdfast && umask 0077 && exec {' '.join([*prefix, command])}"]
        self.process = subprocess.Popen(root.command(*inside), env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        ready = READY.match(self.process.stdout.readline())
        assert ready, self.process.communicate()[1]
        self.host, self.port = ready[1], int(ready[2])
        self.target = f"{self.host}:{self.port}"

    def stop(self):
        self.process.terminate()
        errors = self.process.communicate(timeout=30)[1]
        return self.process.returncode, errors

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()


def test_lintian_has_nothing_to_say(packages):
    if not shutil.which("lintian"):
        pytest.skip("needs lintian")
    done = run("lintian", "--allow-root", "--no-cfg", "--tag-display-limit", "0", *packages.values(), check=False)
    said = {text.split()[2] for text in done.stdout.splitlines() if text[:2] in ("E:", "W:")}
    assert said <= set(ALLOWED), done.stdout


def test_the_same_programs_make_the_same_packages(packages, tmp_path):
    run(REPOSITORY / "scripts/build-deb.sh", tmp_path, env={**os.environ, "RELEASE": str(RELEASE)})
    for path in packages.values():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_what_is_installed(installed):
    modes = {"usr/bin/holdfast": 0o755, "usr/bin/holdfast-load": 0o755, "etc/default/holdfast": 0o644,
             "etc/holdfast/credentials": 0o700, "etc/holdfast/relay": 0o700, "etc/default/holdfast-relay": 0o644,
             "usr/lib/systemd/system/holdfast-relay.service": 0o644, "usr/share/man/man1/holdfast-relay.1.gz": 0o644, "etc/holdfast/intake": 0o700,
             "etc/default/holdfast-intake": 0o644, "usr/lib/systemd/system/holdfast-intake.service": 0o644,
             "usr/share/man/man1/holdfast-intake.1.gz": 0o644, "var/lib/holdfast": 0o750,
             "usr/lib/systemd/system/holdfast.service": 0o644, "usr/share/man/man1/holdfast-serve.1.gz": 0o644,
             "usr/share/man/man1/holdfast-load-run.1.gz": 0o644, "usr/share/doc/holdfast/README.md": 0o644,
             "usr/share/holdfast/proto/holdfast/v1/stock.proto": 0o644, "usr/share/holdfast/prometheus": 0o755}
    for place, mode in modes.items():
        assert stat.S_IMODE((installed.path / place).stat().st_mode) == mode, place
    owner = installed.run("stat", "-c", "%U:%G", "/var/lib/holdfast").stdout.strip()
    assert owner == "holdfast:holdfast"
    shell = installed.run("getent", "passwd", "holdfast").stdout.strip().split(":")[-1]
    assert shell.endswith("nologin")
    assert installed.run("dpkg", "--verify", "holdfast", "holdfast-load").stdout == ""
    documents = installed.path / "usr/share/doc/holdfast"
    pictures = {(page.parent / target).resolve() for page in documents.rglob("*.md")
                for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())}
    assert pictures and all(picture.is_file() for picture in pictures)
    # Enabled for when there is a systemd.
    assert (installed.path / "etc/systemd/system/multi-user.target.wants/holdfast.service").is_symlink()
    # That one only where there is a broker.
    for name in ("relay", "intake"):
        assert not (installed.path / f"etc/systemd/system/multi-user.target.wants/holdfast-{name}.service").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_need_no_toolchain(installed, program):
    listed = installed.run("ldd", f"/usr/bin/{program}").stdout
    assert "not found" not in listed and "libc.so.6" in listed
    assert not TOOLCHAIN.search(listed), listed
    dynamic = run("readelf", "--dynamic", installed.path / "usr/bin" / program).stdout
    assert "RUNPATH" not in dynamic and "RPATH" not in dynamic
    said = installed.run(program, "--version").stdout
    assert re.fullmatch(r"\S+ \(commit [0-9a-f]{12}(-dirty)?\)\n", said)


def test_from_the_installation_to_the_first_reservation(installed, packages, capsys):
    began = time.monotonic()
    with Service(installed) as service:
        started = time.monotonic() - began
        with Client(service.target) as client:
            sku = client.item(100)
            held = client.reserve(line(sku, 2))
            client.confirm(held.reservation_id)
            assert client.level(sku).on_hand == 98
            first = time.monotonic() - began
        done = installed.run("holdfast", "health", "--target", service.target)
        assert done.stdout == "SERVING\n"
        done = installed.run("holdfast-load", "run", "--target", service.target, "--duration", "1s", "--scenario", "carts")
        assert "every invariant held" in done.stdout or done.returncode == 0
        status, _ = service.stop()
    assert status == 0
    # What it has written is its own alone.
    made = [path for path in (installed.path / "var/lib/holdfast").rglob("*")]
    assert made and all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in made)
    sizes = {name: path.stat().st_size / 1e6 for name, path in packages.items()}
    with capsys.disabled():
        print(f"\npackages {sizes} MB; installed in {installed.installed_in:.1f} s; started in {started:.2f} s, first "
              f"reservation confirmed after {first:.2f} s")


def test_the_unit_lets_it_do_what_it_does(installed, tmp_path):
    """Every system call of a start, calls, a reload and an end is one that the unit's filter allows."""
    if not shutil.which("strace") or not shutil.which("systemd-analyze"):
        pytest.skip("needs strace and systemd-analyze")
    unit = (installed.path / "usr/lib/systemd/system/holdfast.service").read_text()
    allowed = set()
    for sign, groups in re.findall(r"^SystemCallFilter=(~?)(.*)$", unit, re.MULTILINE):
        for group in groups.split():
            allowed = allowed - system_calls(group) if sign else allowed | system_calls(group)
    trace = tmp_path / "trace"
    server = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", trace, *installed.command(
            "setpriv", "--reuid=holdfast", "--regid=holdfast", "--init-groups", "holdfast", "serve",
            "--port", "0", "--admin-port", "0", "--data-dir", "/var/lib/holdfast/traced")],
        stdout=subprocess.PIPE, stderr=open(tmp_path / "errors", "w"), text=True, start_new_session=True,
        env={"PATH": SYSTEM_PATH})
    try:
        ready = READY.match(server.stdout.readline())
        assert ready, (tmp_path / "errors").read_text()
        with Client(f"{ready[1]}:{ready[2]}") as client:
            client.reserve(line(client.item(1)))
        os.kill(int(ready[5]), 1)
        time.sleep(0.5)
        os.kill(int(ready[5]), 15)
        assert server.wait(60) == 0
    finally:
        # With what it traces.
        if server.poll() is None:
            os.killpg(server.pid, 9)
    text = trace.read_text()
    # From its own start on.
    text = text[text.rindex('execve("/usr/bin/holdfast"'):]
    used = set(re.findall(r"^\d+ +([a-z][a-z0-9_]+)\(", text, re.MULTILINE))
    # It asks for more descriptors, and can do without: LimitNOFILE has said how many there are.
    assert used - allowed <= {"setrlimit", "prlimit64"}, used - allowed
    # None of what MemoryDenyWriteExecute forbids.
    assert not re.search(r"^\d+ +(mmap|mprotect)\([^)]*PROT_WRITE\|PROT_EXEC", text, re.MULTILINE)


def system_calls(group):
    """A call, or those of a group and of the groups in it."""
    if not group.startswith("@"):
        return {group}
    done = run("systemd-analyze", "syscall-filter", "--no-pager", group)
    names = set()
    for text in done.stdout.splitlines():
        word = text.strip()
        if not word or word.startswith("#") or text.startswith("@"):
            continue
        names |= system_calls(word)
    return names


def test_what_the_page_says_to_type(installed, packages, tmp_path):
    """docs/INSTALLATION.md, in its order, but for what needs systemd or a container engine."""
    typed = 0
    for page, block in COMMANDS:
        if page != "docs/INSTALLATION.md":
            continue
        for text in lines(block):
            text = text.removeprefix("sudo ")
            words = shlex.split(text)
            if words[0] in ("systemctl", "podman", "make", "journalctl") or "purge" in words or "remove" in words:
                continue
            typed += 1
            if words[0] == "apt-get":
                # The very files, in the folder that was copied there.
                assert "./dist/holdfast_*.deb" in words or "./dist/holdfast-load_*.deb" in words
                continue
            if words[0] == "openssl":
                run(*words, cwd=installed.path / "root")
                continue
            if words[:2] == ["holdfast", "health"]:
                with Service(installed) as service:
                    assert installed.run(*words, HOLDFAST_PORT=str(service.port)).stdout == "SERVING\n"
                continue
            done = installed.run("sh", "-c", f"cd /root && {text}")
            if words[:3] == ["holdfast", "token", "create"]:
                token = done.stdout.split()[0]
    assert typed >= 6
    # systemd would copy them to where the server alone can read them.
    handed = installed.path / "run/credentials"
    shutil.copytree(installed.path / "etc/holdfast/credentials", handed)
    for path in handed.iterdir():
        path.rename(handed / f"holdfast_{path.name}")
    installed.run("chown", "-R", "holdfast:holdfast", "/run/credentials")
    with Service(installed, CREDENTIALS_DIRECTORY="/run/credentials") as service:
        certificate = (handed / "holdfast_tls-cert").read_bytes()
        credentials = grpc.ssl_channel_credentials(certificate)
        with Client(f"localhost:{service.port}", credentials=credentials, token=token) as client:
            with refused(grpc.StatusCode.NOT_FOUND):
                client.level("nothing")
        with Client(f"localhost:{service.port}", credentials=credentials) as client:
            with refused(grpc.StatusCode.UNAUTHENTICATED):
                client.level("nothing")
    shutil.rmtree(handed)


def test_an_upgrade_keeps_data_and_configuration(installed, packages, tmp_path):
    default = installed.path / "etc/default/holdfast"
    before = default.read_text()
    default.write_text(before + "HOLDFAST_LOG_LEVEL=warning\n")
    with Service(installed) as service, Client(service.target) as client:
        sku = client.item(7)
    # The same again, under a higher number.
    work = tmp_path / "work"
    run("dpkg-deb", "--raw-extract", packages["holdfast"], work)
    control = work / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 99-1", control.read_text(), flags=re.MULTILINE))
    run("dpkg-deb", "--root-owner-group", "--build", work, installed.path / "root/newer.deb")
    installed.run("apt-get", "-qy", "install", "/root/newer.deb")
    assert installed.run("dpkg-query", "-W", "-f", "${Version}", "holdfast").stdout == "99-1"
    assert default.read_text().endswith("HOLDFAST_LOG_LEVEL=warning\n")
    with Service(installed) as service, Client(service.target) as client:
        assert client.level(sku).on_hand == 7


def test_removed_and_purged(installed):
    installed.run("apt-get", "-qy", "remove", "holdfast", "holdfast-load")
    for program in PROGRAMS:
        assert not (installed.path / "usr/bin" / program).exists()
    # Stock is not thrown away by a remove.
    assert (installed.path / "var/lib/holdfast").is_dir() and (installed.path / "etc/default/holdfast").exists()
    said = installed.run("apt-get", "-qy", "purge", "holdfast", "holdfast-load")
    # Nor by a purge, which says so; what it takes is configuration, with the credentials.
    data = installed.path / "var/lib/holdfast"
    assert "/var/lib/holdfast" in said.stdout + said.stderr
    assert any(data.iterdir()) and not (installed.path / "etc/holdfast").exists()
    shutil.rmtree(data)
    left = {place for place, digest in installed.files().items() if installed.before.get(place) != digest}
    # The user stays, so that its number is not given to somebody else.
    users = {f"etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow") for end in ("", "-")}
    assert left - users - {"etc/ld.so.cache"} == set()


def test_purge_takes_an_empty_data_directory(installed, packages):
    installed.run("apt-get", "-qy", "--no-install-recommends", "install", f"/root/{packages['holdfast'].name}")
    assert not any((installed.path / "var/lib/holdfast").iterdir())
    said = installed.run("apt-get", "-qy", "purge", "holdfast")
    assert "reservations stay" not in said.stdout + said.stderr and not (installed.path / "var/lib/holdfast").exists()
