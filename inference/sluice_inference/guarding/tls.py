"""TLS for the listener: certificate and key from files, those of the day for each new connection."""

from __future__ import annotations

import ssl

from sluice_inference.errors import SettingsError, UnusableFileError
from sluice_inference.guarding.reloading import Reloading, read_text
from sluice_inference.settings.guard import TlsSettings


def make_tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context for the listener. Raises SettingsError where the files can't be used.

    Each handshake takes the newest pair that could be read: when a certificate is renewed, open
    connections stay as they are and new ones get it. A pair caught half written leaves the old one.
    """
    try:
        pair = Reloading(
            "the TLS certificate and key",
            [settings.cert_file, settings.key_file],
            lambda: _load(settings),
        )
        context = _load(settings)
    except UnusableFileError as error:
        raise SettingsError([f"TLS_CERT_FILE, TLS_KEY_FILE: {error}"]) from error

    def choose(
        connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
    ) -> None:
        connection.context = pair.get()

    # Runs in each handshake, also where the client names no server.
    context.sni_callback = choose
    return context


def _load(settings: TlsSettings) -> ssl.SSLContext:
    for file in (settings.cert_file, settings.key_file):
        read_text(file)  # its errors name the file, those of the next call don't
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password given, OpenSSL would ask a terminal for one.
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except (OSError, ValueError) as error:
        raise UnusableFileError(
            f"{settings.cert_file} and {settings.key_file} are not a certificate chain and its "
            "private key, both PEM, the key without a password"
        ) from error
    return context
