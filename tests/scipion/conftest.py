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


@pytest.fixture(scope="session")
def checks(domain: Any) -> Any:
    """The interoperability checks that the Scipion team runs on every tomography plugin."""
    from tomo.tests.test_base_centralized_layer import TestBaseCentralizedLayer

    return TestBaseCentralizedLayer()


@pytest.fixture(scope="session")
def particles(session_project: ProjectRunner) -> Any:
    """A finished simulation of 12 subtomograms of two structures, 16^3 voxels."""
    return _in_project(session_project, session_project.new(
        "ProtFamlSimulateSubtomograms", structures="blobs:1, blobs:2", counts="6", boxSize=16,
        voxelSize=VOXEL_SIZE, snr=4.0, maxShift=1.0, optics=1, numberOfThreads=2))


@pytest.fixture(scope="session")
def tomograms(session_project: ProjectRunner) -> Any:
    """A finished simulation of two tomograms with 5 + 5 particles each."""
    return _in_project(session_project, session_project.new(
        "ProtFamlSimulateTomograms", structures="groel, proteasome", counts="5", sizeX=88,
        sizeY=80, sizeZ=40, voxelSize=VOXEL_SIZE, snr=0.05, optics=1, numberOfTomograms=2,
        tiltMin=-54.0, tiltMax=60.0, binThreads=2))


@pytest.fixture(scope="session")
def picked(session_project: ProjectRunner, tomograms: Any) -> Any:
    """Picks in the simulated tomograms."""
    return _in_project(session_project, session_project.new(
        "ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")}, diameter=150.0,
        boxSize=16, binThreads=2))


@pytest.fixture(scope="session")
def classified(session_project: ProjectRunner, particles: Any) -> Any:
    """A finished classification of the simulated subtomograms."""
    return _in_project(session_project, session_project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        numberOfClasses=2, numberOfIterations=2, mode=1, bandwidth=8, numberOfThreads=2))


@pytest.fixture(scope="session")
def enhanced(session_project: ProjectRunner, particles: Any) -> Any:
    """A finished classification of the simulated subtomograms in enhanced mode."""
    return _in_project(session_project, session_project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        numberOfClasses=2, numberOfIterations=3, maxShift=1.5,
        numberOfThreads=2))


VOXEL_SIZE = 20.0


def _in_project(runner: ProjectRunner, protocol: Any) -> Any:
    """Run in the project's folder and come back."""
    start = Path.cwd()
    runner.enter()
    try:
        return runner.finished(protocol)
    finally:
        os.chdir(start)
