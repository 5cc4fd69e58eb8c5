from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import obskit


def test_the_public_names_are_these() -> None:
    assert sorted(obskit.__all__) == [
        "Config",
        "Detector",
        "Exchange",
        "Finding",
        "InstallError",
        "InvariantError",
        "Outcome",
        "__version__",
        "bind",
        "current",
        "get_logger",
        "install",
        "invariant",
        "shutdown",
        "unit_of_work",
    ]


@pytest.mark.parametrize("name", obskit.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(obskit, name)
    assert value.__doc__ if name != "__version__" else value


def test_the_signature_of_install_is_the_contract() -> None:
    parameters = inspect.signature(obskit.install).parameters
    assert list(parameters) == [
        "app",
        "service",
        "environment",
        "interface",
        "detectors",
        "config",
        "options",
    ]
    assert all(
        p.kind is p.KEYWORD_ONLY and p.default in (None, ())
        for n, p in parameters.items()
        if n not in ("app", "options")
    )


def test_an_unknown_name_says_what_is_offered() -> None:
    with pytest.raises(AttributeError, match=r"'obskit' has no attribute 'instal'; it offers .*install"):
        obskit.instal  # noqa: B018


def test_install_is_the_function_however_its_module_came_to_be_loaded() -> None:
    report = "import obskit.install; from obskit import install; print(callable(obskit.install), callable(install))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("True True", 0)


def test_a_submodule_other_than_install_stays_a_module() -> None:
    assert inspect.ismodule(importlib.import_module("obskit.config"))
    assert inspect.ismodule(obskit.config)


def test_the_version_is_the_installed_distributions() -> None:
    assert obskit.__version__ == importlib.metadata.version("obskit-web")


def test_a_source_tree_that_was_never_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    module = importlib.import_module("obskit.version")
    with monkeypatch.context() as patched:
        patched.setattr(importlib.metadata, "distribution", missing)
        assert importlib.reload(module).__version__ == "0+unknown"
    importlib.reload(module)


def test_the_package_ships_its_types() -> None:
    assert importlib.resources.files("obskit").joinpath("py.typed").is_file()
