"""What waits for a module happens right after it was first imported, once, and is no business of whoever imports."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from obskit.signals import late

NAME = "obskit_waits_for_this"
OTHER = "obskit_waits_for_that"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Makes a module that can be imported; all traces of it go afterwards."""
    monkeypatch.syspath_prepend(tmp_path)

    def made(text: str = "value = 1", name: str = NAME) -> Path:
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        importlib.invalidate_caches()
        return file

    yield made
    for name in (NAME, OTHER):
        sys.modules.pop(name, None)
    late._waiting.clear()
    if late._finder in sys.meta_path:
        sys.meta_path.remove(late._finder)


def test_it_is_done_when_the_module_has_been_loaded_whole_and_not_before(module: Callable[..., Path]) -> None:
    module("import sys\nvalue = 1")
    seen: list[int] = []
    late.when_imported([NAME], lambda: seen.append(sys.modules[NAME].value))
    assert seen == []
    importlib.import_module(NAME)
    assert seen == [1]


def test_it_is_done_at_once_when_the_module_is_there() -> None:
    seen: list[int] = []
    late.when_imported(["sys"], lambda: seen.append(1))
    assert seen == [1]
    assert late._finder not in sys.meta_path


def test_it_is_done_once_for_each_of_several_modules(module: Callable[..., Path]) -> None:
    module()
    module(name=OTHER)
    seen: list[int] = []
    late.when_imported([OTHER, NAME], lambda: seen.append(1))
    importlib.import_module(NAME)
    assert seen == [1]
    del sys.modules[NAME]
    importlib.import_module(NAME)
    assert seen == [1]
    importlib.import_module(OTHER)
    assert seen == [1, 1]


def test_of_several_modules_those_that_are_there_do_not_keep_us_from_waiting_for_the_others(
    module: Callable[..., Path],
) -> None:
    module()
    seen: list[int] = []
    late.when_imported(["sys", NAME], lambda: seen.append(1))
    assert seen == [1]
    importlib.import_module(NAME)
    assert seen == [1, 1]


def test_a_module_that_cannot_be_loaded_is_waited_for_again(module: Callable[..., Path]) -> None:
    file = module("1 / 0")
    seen: list[int] = []
    late.when_imported([NAME], lambda: seen.append(1))
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(NAME)
    assert seen == []
    file.write_text("value = 'longer than before'")
    importlib.invalidate_caches()
    importlib.import_module(NAME)
    assert seen == [1]


def test_the_module_has_its_own_loader_afterwards_and_nothing_of_ours(module: Callable[..., Path]) -> None:
    module()
    late.when_imported([NAME], lambda: None)
    found = importlib.util.find_spec(NAME)
    assert found is not None
    assert found.loader.get_source(NAME) == "value = 1"  # type: ignore[union-attr]
    loaded = importlib.import_module(NAME)
    plain = type(importlib.util.find_spec("json").loader)  # type: ignore[union-attr]
    assert type(loaded.__loader__) is type(loaded.__spec__.loader) is plain


def test_a_module_that_is_not_there_is_missing_as_ever(module: Callable[..., Path]) -> None:
    late.when_imported([NAME], lambda: None)
    with pytest.raises(ModuleNotFoundError, match=NAME) as raised:
        importlib.import_module(NAME)
    assert raised.value.name == NAME


def test_a_failure_of_ours_does_not_reach_whoever_imports_and_is_told(
    module: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    module()
    seen: list[int] = []
    late.when_imported([NAME], lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    late.when_imported([NAME], lambda: seen.append(1))
    assert importlib.import_module(NAME).value == 1
    assert seen == [1]
    assert capsys.readouterr().err.count("obskit.late_failed") == 1


def test_a_finder_behind_us_that_raises_is_heard_by_whoever_imports(
    module: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == NAME:
                raise ConnectionError("the place where modules are kept")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    late.when_imported([NAME], lambda: None)
    with pytest.raises(ConnectionError):
        importlib.import_module(NAME)


@pytest.mark.parametrize("place", [0, 1], ids=["before us", "behind us"])
def test_another_that_looks_through_all_finders_as_we_do_goes_in_no_circle(
    place: int, module: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Alike:
        busy = False

        def find_spec(self, name: str, path: object = None, target: object = None) -> object:
            if name != NAME or self.busy:
                return None
            asked.append(name)
            self.busy = True
            try:
                return importlib.util.find_spec(name)
            finally:
                self.busy = False

    module()
    seen: list[int] = []
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    late.when_imported([NAME], lambda: seen.append(1))
    sys.meta_path.insert(place, Alike())  # type: ignore[arg-type]
    importlib.import_module(NAME)
    assert (seen, asked) == ([1], [NAME])


def test_what_is_forgotten_does_not_happen_and_leaves_no_finder(module: Callable[..., Path]) -> None:
    module()
    module(name=OTHER)
    before = list(sys.meta_path)
    seen: list[int] = []

    def then() -> None:
        seen.append(1)

    def other() -> None:
        seen.append(2)

    late.when_imported([NAME, OTHER], then)
    late.when_imported([OTHER], other)
    assert late.forget(then)
    assert not late.forget(then)
    assert late._finder in sys.meta_path
    importlib.import_module(NAME)
    importlib.import_module(OTHER)
    assert seen == [2]
    late.when_imported(["obskit_that_never_comes"], then)
    assert late.forget(then)
    assert sys.meta_path == before


def test_threads_that_import_at_once_all_get_the_module_and_it_is_done_once(
    module: Callable[..., Path],
) -> None:
    module()
    seen: list[int] = []
    got: list[object] = []
    together = threading.Barrier(8)
    late.when_imported([NAME], lambda: seen.append(1))

    def imports() -> None:
        together.wait(10)
        got.append(importlib.import_module(NAME).value)

    threads = [threading.Thread(target=imports) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (got, seen) == ([1] * 8, [1])
