"""TLS: certificates from files, that can be read again while the server runs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

__all__ = ["Certificates"]


class Certificates:
    """Makes a server's TLS context from files; give it to `Server(tls=...)`, which calls it at start and at `reload`.

    The context is Python's default for servers, TLS 1.2 or later. For everything else (SNI, ciphers, session tickets)
    give the server an `ssl.SSLContext` of your own, or a function that returns one.

    Args:
        certfile: PEM file with the certificate, and what leads from it to its authority.
        keyfile: PEM file with the private key; None: it is in `certfile`.
        client_ca: PEM file with authorities; if given, clients must show a certificate of one of them.
        alpn: protocols to agree on (RFC 7301), the best first.
        password: of the private key.

    Raises:
        TypeError: an argument is of the wrong type.
    """

    def __init__(
        self,
        certfile: str | os.PathLike[str],
        keyfile: str | os.PathLike[str] | None = None,
        *,
        client_ca: str | os.PathLike[str] | None = None,
        alpn: Sequence[str] = (),
        password: str | None = None,
    ) -> None:
        self.certfile = os.fspath(certfile)
        self.keyfile = None if keyfile is None else os.fspath(keyfile)
        self.client_ca = None if client_ca is None else os.fspath(client_ca)
        if isinstance(alpn, str):
            raise TypeError(f"alpn={alpn!r} is str; allowed: a sequence of strings, as in ['h2', 'http/1.1']")
        self.alpn = tuple(alpn)
        self.password = password

    def __call__(self) -> ssl.SSLContext:
        """Read the files, and return a new context.

        Raises:
            OSError: a file cannot be read.
            ssl.SSLError: a file holds something else, or the key is not the certificate's; it names the files.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Without a password of ours OpenSSL would ask for one on the terminal.
        password = self.password if self.password is not None else ""
        with _Naming(self.certfile, self.keyfile):
            context.load_cert_chain(self.certfile, self.keyfile, password)
        if self.client_ca is not None:
            with _Naming(self.client_ca):
                context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        if self.alpn:
            context.set_alpn_protocols(self.alpn)
        return context

    def __repr__(self) -> str:
        return f"Certificates({self.certfile!r}, {self.keyfile!r})"


WHAT = {
    "KEY_VALUES_MISMATCH": "the private key is not the certificate's",
    "NO_CERTIFICATE_OR_CRL_FOUND": "it holds no certificate",
    "PEM_LIB": "it holds no PEM of the kind that belongs there, or the password is wrong",
}  # what OpenSSL means by its reasons


class _Naming:
    """Names the files in what OpenSSL says of them, which does not."""

    def __init__(self, *paths: str | None) -> None:
        self.paths = [path for path in paths if path is not None]

    def __enter__(self) -> None:
        for path in self.paths:
            with open(path, "rb"):  # its error names the file
                pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ssl.SSLError):
            reason = str(error.reason or error)
            what = WHAT.get(reason, WHAT["PEM_LIB"] if "PEM lib" in reason else reason)
            raise ssl.SSLError(error.errno, f"{' and '.join(self.paths)}: {what}") from error
