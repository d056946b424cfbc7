"""Certificates for the tests, made with openssl(1): an authority of their own, and what it has signed."""

import dataclasses
import pathlib
import subprocess


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@dataclasses.dataclass
class Pair:
    """A certificate and its key: paths of PEM files."""

    certificate: pathlib.Path
    key: pathlib.Path

    def read(self):
        """(key, certificate), in the order that grpcio takes them."""
        return self.key.read_bytes(), self.certificate.read_bytes()


class Certificates:
    """An authority. `authority` is the path of its certificate."""

    def __init__(self, folder, name="Holdfast test authority"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.authority, self.key = self.folder / "ca.pem", self.folder / "ca.key"
        self.issued = 0
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 30,
                "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.authority)

    def issue(self, subject, hosts=("DNS:localhost", "IP:127.0.0.1"), days=30):
        """A pair for a server or a client. `subject` is its common name."""
        self.issued += 1
        stem = self.folder / f"{self.issued}-{subject}"
        pair = Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        extensions.write_text(f"subjectAltName = {','.join(hosts)}\nextendedKeyUsage = serverAuth, clientAuth\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", f"/CN={subject}", "-keyout", pair.key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", self.key, "-CAcreateserial",
                "-days", days, "-extfile", extensions, "-out", pair.certificate)
        return pair
