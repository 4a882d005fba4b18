"""Fixtures of the live tests; the peers themselves are in peers.py."""

import shutil

import pytest

from peers import Certificates, Postfix, ScriptedUpstream, Tasuki, own_directory


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than 30 seconds (-m 'not slow')")


@pytest.fixture(scope="session")
def certificates():
    directory = own_directory("tls")
    yield Certificates(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def shared_postfix(certificates):
    server = Postfix(certificates)
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture
def postfix(shared_postfix):
    """The one Postfix of this run, with an empty sink."""
    shared_postfix.sink.messages.clear()
    return shared_postfix


@pytest.fixture
def tasuki():
    """Makes daemons: tasuki(section(...), setting=value) is started; each must end in peace."""
    made = []

    def make(upstreams, start=True, **settings):
        daemon = Tasuki(upstreams, **settings)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    try:
        for daemon in made:
            daemon.stop()
    finally:
        for daemon in made:
            daemon.kill()
            daemon.remove()


@pytest.fixture
def scripted_upstream(certificates):
    """Makes scripted servers; implicit and starttls have the good certificate."""
    made = []

    def make(tls=None, certificate=None, login=None):
        if tls is not None and certificate is None:
            certificate = certificates.good
        server = ScriptedUpstream(certificate, starttls=tls != "implicit",
                                  login=tls is not None if login is None else login)
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop()
