"""A real Prometheus on loopback that scrapes servers under test, with the rules of deploy/ shortened."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request

from server import eventually

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "deploy/prometheus/holdfast.rules.yml"
# Of logs in an engine: one of its alerts fires where there is none.
HA_RULES = REPOSITORY / "deploy/prometheus/holdfast-ha.rules.yml"
EVENTS_RULES = REPOSITORY / "deploy/prometheus/holdfast-events.rules.yml"
START_SECONDS = 30
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def is_installed():
    return bool(shutil.which("prometheus") and shutil.which("promtool"))


def shortened(rules):
    """The rules of a file for a test that cannot wait for hours: thresholds and labels as they are, times shorter.

    Ranges and offsets are a sixtieth of what they were, from 5 s, which are five scrapes, to 30 s; every `for` is 3 s,
    so that one scrape that is missed on a busy machine is nothing; sizes in GiB are MiB.
    """
    def scaled(text, least, most):
        seconds = int(text[:-1]) * UNITS[text[-1]] / 60
        return f"{round(min(most, max(least, seconds)) * 1000)}ms"

    rules = re.sub(r"\[(\d+[smhd])\]", lambda found: f"[{scaled(found[1], 5, 30)}]", rules)
    rules = re.sub(r"offset (\d+[smhd])", lambda found: f"offset {scaled(found[1], 5, 30)}", rules)
    rules = re.sub(r"for: (\d+[smhd])", lambda found: "for: 3s", rules)
    return rules.replace("* 1024 * 1024 * 1024", "* 1024 * 1024")


def names_in(expression):
    """The names of the metrics that an expression asks for."""
    text = re.sub(r'"[^"]*"|\'[^\']*\'', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\$\w+", " ", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\boffset\s+\S+", " ", text)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()", text)
    return {word for word in words if word not in {"and", "or", "unless", "bool", "Inf", "NaN"} and not re.fullmatch(r"[smhd]", word)}


class Prometheus:
    """Up when the constructor returns. `alerts` of a job are those of the targets that were added under its name."""

    def __init__(self, *rules):
        self.folder = tempfile.TemporaryDirectory(prefix="holdfast-prometheus-")
        path = pathlib.Path(self.folder.name)
        self.targets = path / "targets"
        self.targets.mkdir()
        for file in rules:
            (path / file.name).write_text(shortened(file.read_text()))
        (path / "prometheus.json").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
            "rule_files": [str(path / file.name) for file in rules],
            "scrape_configs": [{"job_name": "unnamed", "file_sd_configs": [
                {"files": [f"{self.targets}/*.json"], "refresh_interval": "1s"}]}]}))
        self.log = []
        # A port that the kernel chooses is told in the log alone.
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={path}/prometheus.json", f"--storage.tsdb.path={path}/data",
             "--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage", "--log.format=json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.address = None
        threading.Thread(target=self._read, daemon=True).start()
        try:
            eventually(lambda: self.address or self.process.poll() is not None, START_SECONDS)
            assert self.address, "".join(self.log)
            eventually(self._is_ready, START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r'"address":"(127\.0\.0\.1:\d+)".*"msg":"Listening on"', line):
                self.address = found[1]

    def _is_ready(self):
        try:
            return urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    def get(self, path, **parameters):
        """What its API answers."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=10) as response:
            return json.load(response)["data"]

    def value(self, expression):
        """Of an instant query with one result; None without one."""
        result = self.get("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None

    def add(self, job, *admin_ports):
        """Scrapes these from now on."""
        file = self.targets / f"{job}.json"
        entries = [{"targets": [f"127.0.0.1:{port}" for port in admin_ports], "labels": {"job": job}}]
        # In one step: it is read at any moment.
        file.with_suffix(".new").write_text(json.dumps(entries))
        file.with_suffix(".new").rename(file)

    def remove(self, job):
        (self.targets / f"{job}.json").unlink(missing_ok=True)

    def firing(self, job):
        """The names of a job's alerts that fire, each with the labels of one of them."""
        return {alert["labels"]["alertname"]: alert["labels"] for alert in self.get("alerts")["alerts"]
                if alert["state"] == "firing" and alert["labels"].get("job") == job}

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Watched:
    """A job, and what its alerts say."""

    def __init__(self, prometheus, job, *admin_ports):
        self.prometheus, self.job = prometheus, job
        prometheus.add(job, *admin_ports)
        eventually(lambda: self.ups() == len(admin_ports), 20)

    def ups(self):
        return self.prometheus.value(f'sum(up{{job="{self.job}"}})') or 0

    def fires(self, alert, also=(), seconds=60, meanwhile=lambda: None):
        """Until it fires: it, and no other but those that come of the same condition. Its labels."""
        def found():
            meanwhile()
            firing = self.prometheus.firing(self.job)
            others = set(firing) - {alert, *also}
            assert not others, f"{others} fire, which should not: {firing}"
            return firing.get(alert)
        return eventually(found, seconds)

    def resolves(self, seconds=90, but=(), meanwhile=lambda: None):
        """Until none fires any more, but those that have another reason."""
        def is_over():
            meanwhile()
            self.left = set(self.prometheus.firing(self.job)) - set(but)
            return not self.left
        try:
            eventually(is_over, seconds)
        except AssertionError:
            raise AssertionError(f"{self.left} still fire after {seconds} s") from None
