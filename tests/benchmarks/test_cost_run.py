"""The benchmark of a request runs, refuses a machine on which it cannot tell, and a variant that does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.cost import __main__ as cost
from benchmarks.cost import environments, inprocess, load
from benchmarks.cost.processes import Failed
from benchmarks.cost.variants import BY_NAME

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every environment is that of the tests: what a run costs is no question here, and making one takes minutes."""
    monkeypatch.setattr(environments, "ensure", lambda environment: Path(sys.executable))
    monkeypatch.setattr(environments, "python_of", lambda environment: Path(sys.executable))


ARGUMENTS = [
    "--frameworks",
    "starlette",
    "--variants",
    "obskit",
    "obskit-unsampled",
    "--quick",
    "--rounds",
    "2",
]


@pytest.mark.usefixtures("here")
def test_a_run_prints_its_table_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cost.main([*ARGUMENTS, "--noise-limit", "1e9", "--json", str(tmp_path / "cost.json")])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "obskit, as it comes" in said.out
    assert (tmp_path / "cost.json").read_text().startswith("{")


@pytest.mark.usefixtures("here")
def test_a_machine_that_is_too_noisy_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cost.main([*ARGUMENTS, "--noise-limit", "0", "--json", str(tmp_path / "cost.json")]) == 2
    said = capsys.readouterr()
    assert "too noisy to tell" in said.err
    assert said.out == ""
    assert not (tmp_path / "cost.json").exists()


@pytest.mark.parametrize(
    ("name", "spans", "counted", "lines"),
    [("obskit", 0, 10, 10), ("obskit", 10, 9, 10), ("obskit", 10, 10, 9), ("obskit-unsampled", 1, 10, 10)],
    ids=["no spans", "uncounted", "no line", "a span too many"],
)
def test_a_variant_that_does_not_do_what_it_is_measured_for_fails(
    tmp_path: Path, name: str, spans: int, counted: int, lines: int
) -> None:
    written = tmp_path / "lines"

    def proof(spans: int, counted: int, lines: int) -> dict[str, float]:
        written.write_text("{}\n" * lines)
        worker: Any = SimpleNamespace(
            ask=lambda question: {"requests": 10, "counted": counted},
            lines=written,
            number=1,
            framework="flask",
            name=name,
        )
        sink: Any = SimpleNamespace(counts=lambda: {"1": spans})
        return inprocess.proof(BY_NAME[name], worker, sink)

    assert proof(10 if BY_NAME[name].sampled else 0, 10, 10)["lines"] == 1
    with pytest.raises(Failed, match="does not do what it is measured for"):
        proof(spans, counted, lines)


SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    connection.recv(65536)
    head = f"HTTP/1.1 {sys.argv[1]}\\r\\ncontent-length: 2\\r\\nconnection: close"
    connection.sendall(f"{head}\\r\\n\\r\\n{{}}".encode())
    connection.close()
"""


@pytest.mark.parametrize("rate", [None, 50.0])
def test_the_load_counts_answers_over_connections_that_a_server_closes(rate: float | None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, "200 OK"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        answered = load.drive(int(server.stdout.readline()), 0.4, connections=1, rate=rate)
        server.kill()
    assert answered.requests == len(answered.latencies_s) >= 1
    if rate is not None:
        assert answered.requests == 20


def test_an_answer_that_is_no_success_ends_the_load() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, "500 No"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        with pytest.raises(OSError, match=r"the server answered b'HTTP/1\.1 500"):
            load.drive(int(server.stdout.readline()), 0.4, connections=1)
        server.kill()


def test_options_without_a_name_go_to_the_cost_of_a_request() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--frameworks", "rails"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "python -m benchmarks.cost: error: argument --frameworks: invalid choice: 'rails'" in ran.stderr
