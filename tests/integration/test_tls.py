"""A store behind TLS."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from pyscheduler import Allocator
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import StoreUnavailable
from tests.harness import assert_invariants
from tests.own_server import NAMESPACE, MakeServer, opened, program_named


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for localhost, and its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("TLS was not tested: there is no openssl to make a certificate with")
    path = tmp_path / "server.crt"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {path}"
    names = "-addext subjectAltName=DNS:localhost"
    subprocess.run(f"{command} {names} -keyout {path.with_suffix('.key')}".split(), check=True, capture_output=True)
    return path


async def test_rediss_takes_a_certificate_that_it_was_told_of_and_no_other(
    make_server: MakeServer, certificate: Path
) -> None:
    program = program_named("redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "tls_port": str(port),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(certificate.with_suffix(".key")),
        "tls_ca_cert_file": str(certificate),
        "tls_auth_clients": "no",
    }
    try:
        make_server(program, **settings)
    except AssertionError as error:
        pytest.skip(f"TLS was not tested: {program} knows none ({error})")
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate") as refused:
        await Allocator.open(f"rediss://localhost:{port}")
    assert refused.type is StoreUnavailable
    async with opened(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as cell:
        assert (await cell.register("a", "en")).status is NodeStatus.READY
    await assert_invariants(f"rediss://localhost:{port}?ssl_ca_certs={certificate}", NAMESPACE)
