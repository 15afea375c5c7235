"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from treadle.server import Certificates

__all__ = ["Authority", "Files"]


@dataclass(frozen=True)
class Files:
    """A certificate and its key, in PEM files."""

    certfile: Path
    keyfile: Path


class Authority:
    """A certificate authority of a test's own.

    Args:
        folder: where its files go.
        name: what it is called, so that a test may have several.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.files = self._make(name, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self.ca = self.files.certfile

    def issue(self, name: str) -> Files:
        """Return a certificate for `name`, signed by this authority."""
        authority = ("-CA", str(self.files.certfile), "-CAkey", str(self.files.keyfile))
        alternatives = "subjectAltName=" + ("IP:127.0.0.1" if name == "127.0.0.1" else f"DNS:{name}")
        extensions = ("-addext", alternatives, "-addext", "keyUsage=critical,digitalSignature")
        return self._make(name, *authority, *extensions)

    def certificates(self) -> Certificates:
        """Return what a server at 127.0.0.1 shows."""
        files = self.issue("127.0.0.1")
        return Certificates(files.certfile, files.keyfile)

    def client_context(self, files: Files | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority, and shows a certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if files is not None:
            context.load_cert_chain(files.certfile, files.keyfile)
        return context

    def _make(self, name: str, *arguments: str) -> Files:
        files = Files(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2")
        out = ("-keyout", str(files.keyfile), "-out", str(files.certfile))
        command = ("openssl", "req", "-x509", "-subj", f"/CN={name}", *key, *out, *arguments)
        subprocess.run(command, check=True, capture_output=True)
        return files
