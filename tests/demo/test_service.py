"""Finding, starting and stopping what the demonstration runs, and what it says when it cannot."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from obskit.cli import main
from obskit.demo import process, service
from obskit.demo.errors import DemoError, ServiceDied
from obskit.demo.process import ChildProcess
from obskit.demo.service import SERVICES, Demonstration, find_services


def test_the_services_are_where_they_are_looked_for() -> None:
    folder = find_services()
    assert (folder / "payments" / "gateway.py").is_file()
    assert all((folder / name).is_dir() for name in SERVICES)


def test_services_that_are_nowhere_are_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(service, "__file__", str(tmp_path / "a" / "b" / "c" / "service.py"))
    with pytest.raises(DemoError, match="Reinstall obskit-web"):
        find_services()


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in said
    assert "--port" in said


@pytest.mark.parametrize(
    ("name", "module"), [("fastapi", "httpx"), ("flask", "sqlalchemy"), ("django", "gunicorn")]
)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--service", name]) == 2
    assert capsys.readouterr().err == (
        f"obskit demo: --service {name} needs packages that are not installed here: {module}. "
        f"Install them: pip install 'obskit-web[cli,{name}]' {module}\n"
    )


def test_a_folder_of_that_name_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "looks_like_a_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DemoError, match="looks_like_a_package"):
        service.check_packages(
            replace(SERVICES["flask"], needs={"looks_like_a_package": "looks_like_a_package"})
        )


def test_a_service_that_does_not_start_ends_the_demo_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    broken = replace(SERVICES["flask"], command="gunicorn -b {host}:{port} no_such_module:app")
    monkeypatch.setattr(service, "SERVICES", {"flask": broken})
    monkeypatch.setattr("obskit.demo.run.SERVICES", {"flask": broken})
    assert main(["demo", "--service", "flask"]) == 1
    said = capsys.readouterr()
    assert "the flask service ended with status 3. Its last output:" in said.err
    assert "No module named 'no_such_module'" in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_does_not_answer_in_time_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "START_TIMEOUT_S", 1.0)
    # It starts, and listens somewhere else.
    deaf = replace(SERVICES["flask"], command="http.server --bind {host} 0")
    demonstration = Demonstration(deaf, None, lambda: False)
    with pytest.raises(ServiceDied, match="did not answer within 1 s"), demonstration:
        pass
    assert ended(demonstration.process.pid)
    assert ended(demonstration.gateway.pid)


def test_a_service_whose_metrics_are_refused_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's own file server: 404 for /metrics.
    other = replace(SERVICES["flask"], command="http.server --bind {host} {port}")
    with (
        pytest.raises(ServiceDied, match="/metrics answered 404, expected 200"),
        Demonstration(other, None, lambda: False),
    ):
        pass


def test_the_users_shell_does_not_change_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OBSKIT_METRICS_PATH", "DATABASE_URL", "GUNICORN_CMD_ARGS", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.setenv(name, "something")
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    demonstration = Demonstration(SERVICES["flask"], None, lambda: False)
    demonstration._database = Path("shop.sqlite3")
    environment = demonstration._environment()
    assert "something" not in environment.values()
    assert environment["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    # Where spans go is the user's business.
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4318"


# ---- one child ----------------------------------------------------------------------------------------


def child(program: str, tmp_path: Path) -> ChildProcess:
    """A Python process that has printed "ready"."""
    started = ChildProcess("the child", [sys.executable, "-u", "-c", program], tmp_path, dict(os.environ))
    deadline = time.monotonic() + 30
    while not any(line.endswith("ready") for line in started.stdout.output.copy()):
        started.check_alive()
        assert time.monotonic() < deadline, started.last_words()
        time.sleep(0.01)
    return started


def ended(pid: int) -> bool:
    """Whether no process has this number, nor waits to be buried under it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TERM_TIMEOUT_S", 0.3)
    stubborn = child(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = os.fork()\n"
        "if grandchild: print(grandchild, 'ready')\n"
        "time.sleep(600)",
        tmp_path,
    )
    grandchild = int(stubborn.stdout.output[0].split()[0])
    stubborn.stop()
    assert ended(stubborn.pid)
    deadline = time.monotonic() + 10
    # Whoever adopted it buries it.
    while not gone_or_zombie(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone_or_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_child_is_out_of_reach_of_ctrl_c(tmp_path: Path) -> None:
    running = child("import time; print('ready'); time.sleep(600)", tmp_path)
    try:
        assert os.getsid(running.pid) == running.pid != os.getsid(0)
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("program", "said"),
    [("raise SystemExit(7)", "status 7"), ("import os; os.kill(os.getpid(), 9)", "SIGKILL")],
)
def test_a_child_that_ended_says_how(program: str, said: str, tmp_path: Path) -> None:
    done = ChildProcess("the child", [sys.executable, "-c", program], tmp_path, dict(os.environ))
    done._process.wait(30)
    with pytest.raises(ServiceDied, match=rf"the child ended with {said}\. Its last output:\n  \(nothing\)"):
        done.check_alive()
    done.stop()


def test_stopping_again_does_no_harm(tmp_path: Path) -> None:
    running = child("import time; print('ready'); time.sleep(600)", tmp_path)
    running.stop()
    running.stop()
    assert running._process.returncode == -signal.SIGTERM
