"""A Scipion project in which protocols run inside the test's own process (fast, debuggable)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def domain(scipion_workspace: Path) -> Any:
    """Scipion's domain with all plugins loaded; pyworkflow is imported here and not before."""
    import pyworkflow as pw

    domain = pw.Config.getDomain()
    domain.getPlugins()
    domain.getProtocols()
    return domain


class ProjectRunner:
    """A project and the few calls that a test needs to run protocols in it."""

    def __init__(self, domain: Any, name: str) -> None:
        from pyworkflow.project import Manager

        self.protocols = domain.getProtocols()
        self.project = Manager().createProject(name)

    def enter(self) -> None:
        """Change to the project's folder: Scipion's paths are relative to it."""
        os.chdir(self.project.path)

    def new(self, protocol_name: str, pointers: dict[str, Any] | None = None, **values: Any) -> Any:
        """Return a protocol with its parameters; a pointer is given as (protocol, output name)."""
        protocol = self.project.newProtocol(self.protocols[protocol_name], **values)
        for name, (source, output) in (pointers or {}).items():
            getattr(protocol, name).set(source)
            getattr(protocol, name).setExtended(output)
        return protocol

    def run(self, protocol: Any) -> Any:
        """Run a protocol in this process, with the book-keeping of Project.launchProtocol."""
        import pyworkflow.utils as pwutils
        from pyworkflow.protocol import STATUS_LAUNCHED, runProtocolMain

        protocol.setStatus(STATUS_LAUNCHED)
        self.project._setupProtocol(protocol)
        protocol.makePathsAndClean()
        self.project.mapper.commit()
        pwutils.copyFile(self.project.dbPath, protocol.getDbPath())
        runProtocolMain(self.project.path, protocol.getDbPath(), protocol.getObjId())
        self.project._updateProtocol(protocol)
        self.project.mapper.commit()
        return protocol

    def finished(self, protocol: Any) -> Any:
        """Run a protocol that must end well, with nothing in its error log."""
        self.run(protocol)
        assert protocol.isFinished(), protocol.getErrorMessage()
        errors = Path(protocol.getStderrLog())
        assert not errors.exists() or errors.read_text().strip() == ""
        return protocol


@pytest.fixture(scope="session")
def session_project(domain: Any) -> ProjectRunner:
    """The project that all tests share: simulated data are made once."""
    return ProjectRunner(domain, "tests")


@pytest.fixture
def project(session_project: ProjectRunner) -> Iterator[ProjectRunner]:
    """The shared project, with the working folder inside it."""
    start = Path.cwd()
    session_project.enter()
    yield session_project
    os.chdir(start)
