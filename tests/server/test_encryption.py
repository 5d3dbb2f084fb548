# SPDX-License-Identifier: GPL-3.0-or-later
"""A server for other machines: encrypted, and trusted by the fingerprint of its certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from krita_sd import link, server_process, tls
from krita_sd.wire.errors import Code, WireError
from server.client import Client
from tests.server.harness import ServerProcess, run_cli, running


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate in one file, signed by somebody nobody knows."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    trustme.CA().issue_cert("studio.example").private_key_and_cert_chain_pem.write_to_path(file)
    return file


@pytest.fixture(scope="module")
def encrypted(pem: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("state"), "--tls-cert", pem) as server:
        yield server


async def test_the_printed_address_is_all_that_is_needed(encrypted: ServerProcess) -> None:
    assert encrypted.url.startswith("wss://127.0.0.1:") and "#sha256=" in encrypted.url
    async with Client(encrypted.url, encrypted.token) as client:
        assert client.core is not None
    # The plugin's own way, and how it finds this machine's server.
    socket = link._open(link.Target(encrypted.url, encrypted.token, "The server"))
    socket.close()
    found = server_process.find(encrypted.state)
    assert found is not None and found.uri == encrypted.url


async def test_another_certificate_is_refused_before_the_token_is_told(encrypted: ServerProcess) -> None:
    wrong = encrypted.url[:-1] + ("0" if encrypted.url[-1] != "0" else "1")
    with pytest.raises(WireError, match="another certificate") as caught:
        link._open(link.Target(wrong, encrypted.token, "The server"))
    assert caught.value.code is Code.UNAUTHORIZED
    with pytest.raises(WireError, match="another certificate"):
        async with Client(wrong, encrypted.token):
            pass


async def test_without_a_fingerprint_only_certificates_this_machine_trusts_count(encrypted: ServerProcess) -> None:
    with pytest.raises(WireError) as caught:
        link._open(link.Target(encrypted.url.partition("#")[0], encrypted.token, "The server"))
    assert "does not trust the certificate" in str(caught.value)
    plain = encrypted.url.replace("wss://", "ws://").partition("#")[0]
    with pytest.raises(WireError):
        link._open(link.Target(plain, encrypted.token, "The server"))


def test_addresses_that_cannot_be_read(encrypted: ServerProcess) -> None:
    for address in (
        "ws://a/v1#sha256=" + "0" * 64,
        "wss://a/v1#sha256=12",
        "wss://a/v1#md5=" + "0" * 64,
        "wss:///v1#x",
    ):
        with pytest.raises(ValueError):
            tls.opened(address, 1.0)
    address, context = tls.opened("wss://studio.example/v1", 1.0)
    assert address == "wss://studio.example/v1" and context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname


def test_a_certificate_that_cannot_be_used_is_one_sentence(pem: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    for file in (bad, tmp_path / "missing.pem"):
        done = run_cli("--state", tmp_path / "state", "--tls-cert", file)
        assert done.returncode == 2 and "The certificate cannot be used" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and str(file) not in done.stderr
    done = run_cli("--state", tmp_path / "state", "--tls-key", pem)
    assert done.returncode == 2 and "--tls-key needs --tls-cert" in done.stderr


def test_a_server_for_other_machines_without_encryption_says_so(tmp_path: Path) -> None:
    with running(tmp_path, "--host", "0.0.0.0") as server:
        assert server.process.stdout is not None
        assert "without encryption" in server.process.stdout.readline()
