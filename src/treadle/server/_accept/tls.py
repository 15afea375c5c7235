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
            OSError: a file cannot be read, or the one that SSLKEYLOGFILE names cannot be written; its `filename` is it.
            ssl.SSLError: a file holds something else, or the key is not the certificate's; its `filename` is that file.
        """
        context = _default_context()
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # older Pythons set it; see ConnectionIO.cut_short
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in filter(None, (self.certfile, self.keyfile, self.client_ca)):
            with open(path, "rb"):  # its error names the file, which that of OpenSSL does not
                pass
        try:
            # Without a password of ours OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certfile, self.keyfile, self.password or "")
        except ssl.SSLError as error:
            raise _named(error, *self._fault(error)) from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise _named(error, self.client_ca, "it holds no certificate that can be read") from error
            context.verify_mode = ssl.CERT_REQUIRED
        if self.alpn:
            context.set_alpn_protocols(self.alpn)
        return context

    def _fault(self, error: ssl.SSLError) -> tuple[str, str]:
        """Return which file OpenSSL stumbled at, and over what: it says little more than that it is no PEM."""
        keyfile = self.keyfile or self.certfile
        key = _read(keyfile)
        if b"CERTIFICATE-----" not in _read(self.certfile):
            return self.certfile, "it holds no certificate in PEM"
        if b"PRIVATE KEY-----" not in key:
            hint = "" if self.keyfile else "; give keyfile (--keyfile)"
            return keyfile, f"it holds no private key in PEM{hint}"
        if error.reason == "KEY_VALUES_MISMATCH":
            return keyfile, f"the private key is not that of the certificate in {self.certfile}"
        if b"ENCRYPTED" in key and self.password is None:
            return keyfile, "the private key is encrypted; give password, or the key as `openssl pkey` decrypts it"
        if b"ENCRYPTED" in key:
            return keyfile, "the private key cannot be decrypted; is the password right?"
        return self.certfile, f"it cannot be used: {error.reason or error}"

    def __repr__(self) -> str:
        return f"Certificates({self.certfile!r}, {self.keyfile!r})"


def _default_context() -> ssl.SSLContext:
    """Return Python's default context for servers, which logs keys to the file that SSLKEYLOGFILE names."""
    try:
        return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    except OSError as error:
        path = os.environ.get("SSLKEYLOGFILE")
        if not path or error.errno is None:
            raise
        what = f"{error.strerror}; SSLKEYLOGFILE has TLS keys written there: make that possible, or unset it"
        raise OSError(error.errno, what, path) from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _named(error: ssl.SSLError, path: str, what: str) -> ssl.SSLError:
    """Return an error that says `what` is wrong, and names the file, also as its `filename`."""
    named = ssl.SSLError(error.errno, f"{path}: {what}")
    named.filename = path
    return named
