from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

import obskit
from obskit.config import Config
from obskit.errors import InstallError

OPTIONS = [f.name for f in dataclasses.fields(Config) if f.name != "metrics_token"]

# option → a good value as argument, the same in the environment, a bad argument, a bad value in the environment,
# and a word of what is allowed
VALUES: dict[str, tuple[Any, str, Any, str, str]] = {
    "service": ("shop", "shop", 7, "a\nb", "printable"),
    "service_version": ("1.2", " 1.2 ", "", "x" * 256, "1 to 255"),
    "environment": ("production", "production", b"x", "\t", "printable"),
    "metrics_path": ("/-/metrics", "/-/metrics", "metrics", "/metrics/", "leading slash"),
    "metrics_access": ("private", "PRIVATE", "everyone", "localhost", "loopback, private, public, token"),
    "metrics_port": (9464, " 9464 ", True, "0", "TCP port from 1 to 65535"),
    "trusted_proxies": (("10.0.0.0/8", "loopback"), " 10.1.2.3/8, Loopback ,", 3, "proxy.local", "networks"),
    "incoming_trace": ("restart", "RESTART", True, "ignore", "continue, restart"),
    "keep_traces": (("errors", "slow"), " Slow,errors ,", 3, "errors,fast", "errors, slow, findings"),
    "slow_request_s": (2.5, " 2.5 ", 0, "soon", "more than 0 and at most 3600"),
    "log_when_full": ("block", "Block", True, "wait", "drop, block"),
    "log_format": ("console", "Console", "xml", "1", "auto, json, console"),
    "log_level": ("debug", "DEBUG", 10, "loud", "debug, info, warning"),
    "capture_logs": ("off", "off", False, "some", "auto, all, off"),
    "access_logs": (True, "yes", 1, "maybe", "boolean"),
    "exclude": (("/healthz", "/livez"), " /healthz, /livez ,", 3, "healthz", "list of paths"),
    "redact": (("iban", "x-y"), "iban,x-y", {"iban": 1}, "a b", "list of key names"),
    "max_series": (500, " 500 ", True, "9", "10 to 1000000"),
    "disabled_detectors": (("soft_error",), " soft_error ,", 3, "soft error", "detector names"),
    "stuck_request_s": (2.5, " 2.5 ", 0, "soon", "more than 0 and at most 3600"),
    "loop_blocked_s": (0.5, " 0.5 ", -1, "soon", "more than 0 and at most 3600"),
    "share_workers": (False, "off", 2, "perhaps", "a boolean"),
    "duplicate_window_s": (2.5, " 2.5 ", 0, "soon", "more than 0 and at most 3600"),
    "soft_error_keys": (
        ("failed", "!done", "state=bad+detail"),
        "failed,!done,state=bad+detail",
        ["a b"],
        "=x",
        "top-level keys",
    ),
    "invariants": ("raise", "RAISE", "log", "strict", "count, raise"),
    "state_dir": (
        os.getcwd(),
        os.getcwd(),
        "state",
        "/no/such/folder",
        "absolute path of a folder that exists",
    ),
    "echo_request_id": (True, "on", "yep", "2", "boolean"),
    "instrumentation": (False, "off", None.__class__, "disabled", "boolean"),
    "disabled_instrumentations": (("redis",), "redis", ["re dis"], "re dis", "instrumentation names"),
    "otlp_endpoint": ("http://c:4318", " http://c:4318", "c:4318", "http://c/?x=1", "URL without a query"),
    "otlp_protocol": ("grpc", "GRPC", "http/json", "udp", "http/protobuf, grpc"),
    "otlp_exporter": ("official", "Official", "fast", "none", "lean, official"),
}


def load(environ: dict[str, str] | None = None, base: Config | None = None, **options: Any) -> Config:
    return Config.load(options, base, environ or {})


def variable(option: str) -> str:
    return f"OBSKIT_{option.upper()}"


def test_every_option_has_its_values_in_this_test() -> None:
    assert sorted(VALUES) == sorted(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_argument_wins_over_the_environment_and_that_over_the_default(option: str) -> None:
    good, in_environment, _, bad_in_environment, _ = VALUES[option]
    default = getattr(Config(), option)
    assert getattr(load(), option) == default != good
    assert getattr(load({variable(option): in_environment}), option) == good
    assert getattr(load({variable(option): bad_in_environment}, **{option: good}), option) == good
    assert getattr(load({variable(option): in_environment}, **{option: None}), option) == good
    assert getattr(load({variable(option): ""}), option) == default


@pytest.mark.parametrize("option", OPTIONS)
def test_a_bad_argument_names_option_value_and_what_is_allowed(option: str) -> None:
    _, _, bad, _, allowed = VALUES[option]
    with pytest.raises(InstallError) as raised:
        load(**{option: bad})
    text = str(raised.value)
    assert text.startswith(f"option '{option}': saw {bad!r}, expected ")
    assert allowed in text


@pytest.mark.parametrize("option", OPTIONS)
def test_a_bad_variable_names_variable_value_and_what_is_allowed(option: str) -> None:
    _, _, _, bad, allowed = VALUES[option]
    with pytest.raises(InstallError) as raised:
        load({variable(option): bad})
    text = str(raised.value)
    seen = repr(bad) if len(repr(bad)) <= 120 else repr(bad)[:117] + "..."
    assert text.startswith(f"environment variable {variable(option)}: saw {seen}, expected ")
    assert allowed in text


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("max_series", 9),
        ("max_series", 1_000_001),
        ("max_series", "many"),
        ("max_series", 20.0),
        ("metrics_path", "/"),
        ("metrics_path", "//metrics"),
        ("metrics_path", "/metrics?x=1"),
        ("metrics_path", "/me trics"),
        ("metrics_path", None.__class__),
        ("exclude", b"/healthz"),
        ("exclude", ["/healthz", 4]),
        ("exclude", ["healthz"]),
        ("otlp_endpoint", "http://"),
        ("otlp_endpoint", 4318),
        ("service", "   "),
        ("service", "x" * 256),
    ],
)
def test_values_just_outside_the_allowed_are_refused(option: str, bad: Any) -> None:
    with pytest.raises(InstallError, match=f"option '{option}'"):
        load(**{option: bad})


@pytest.mark.parametrize(
    ("option", "given", "kept"),
    [
        ("max_series", 10, 10),
        ("max_series", 1_000_000, 1_000_000),
        ("exclude", {"/healthz"}, ("/healthz",)),
        ("exclude", iter(["/a", "", "/b"]), ("/a", "/b")),
        ("exclude", (), ()),
        ("echo_request_id", "False", False),
        ("metrics_path", "/m", "/m"),
        ("otlp_endpoint", "https://collector.example/otlp/", "https://collector.example/otlp/"),
        ("service", " shop ", "shop"),
    ],
)
def test_values_just_inside_are_kept(option: str, given: Any, kept: Any) -> None:
    assert getattr(load(**{option: given}), option) == kept


@pytest.mark.parametrize(
    ("wrong", "meant"), [("servce", "service"), ("metric_path", "metrics_path"), ("loglevel", "log_level")]
)
def test_an_unknown_option_suggests_the_near_name(wrong: str, meant: str) -> None:
    with pytest.raises(
        InstallError,
        match=rf"unknown option '{wrong}' \(did you mean '{meant}'\?\); options are: access_logs, ",
    ):
        load(**{wrong: "x"})


def test_an_unknown_option_like_no_other_lists_the_options() -> None:
    with pytest.raises(InstallError, match="unknown option 'zzz'; options are: ") as raised:
        load(zzz=1)
    assert all(option in str(raised.value) for option in OPTIONS)


def test_the_token_is_no_option() -> None:
    with pytest.raises(InstallError, match="unknown option 'metrics_token'"):
        load(metrics_token="0123456789abcdef")


@pytest.mark.parametrize("length", [16, 512])
def test_the_token_comes_from_the_environment_and_is_never_shown(length: int) -> None:
    token = "t" * length
    config = load({"OBSKIT_METRICS_TOKEN": token}, metrics_access="token")
    assert config.metrics_token == token
    assert token not in repr(config)


@pytest.mark.parametrize(
    ("token", "seen"),
    [
        (None, "has no value"),
        ("", "has no value"),
        ("t" * 15, "has 15 characters"),
        ("t" * 513, "has 513 characters"),
        ("sixteen chars...", "has 16 characters"),
        ("tökentökentökentöken", "has 20 characters"),
    ],
)
def test_a_missing_or_weak_token_is_refused_without_being_shown(token: str | None, seen: str) -> None:
    environ = {} if token is None else {"OBSKIT_METRICS_TOKEN": token}
    with pytest.raises(InstallError, match=r"metrics_access.*OBSKIT_METRICS_TOKEN") as raised:
        load({**environ, "OBSKIT_METRICS_ACCESS": "token"})
    assert seen in str(raised.value)
    assert not token or token not in str(raised.value)


def test_a_token_nobody_asked_for_is_not_read() -> None:
    assert load({"OBSKIT_METRICS_TOKEN": "short"}).metrics_token is None


def test_a_given_config_stands_in_for_environment_and_defaults() -> None:
    base = Config(service="base", log_level="error")
    config = load({"OBSKIT_LOG_LEVEL": "debug", "OBSKIT_ENVIRONMENT": "x"}, base, service="argument")
    assert (config.service, config.log_level, config.environment) == ("argument", "error", None)
    assert base.service == "base"


def test_the_token_of_a_given_config_is_kept() -> None:
    base = load({"OBSKIT_METRICS_TOKEN": "t" * 16}, metrics_access="token")
    assert load({}, base).metrics_token == "t" * 16


@pytest.mark.parametrize("base", [{"service": "x"}, "production", 7])
def test_a_config_that_is_none_is_refused(base: Any) -> None:
    with pytest.raises(InstallError, match=r"option 'config': saw .*, expected an obskit.Config"):
        load({}, base)


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(InstallError, match="option 'log_level': saw <Unshowable>, expected one of"):
        load(log_level=Unshowable())


@pytest.mark.parametrize("field", ["service", "metrics_token"])
def test_a_config_is_frozen(field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Config(), field, "x")


def test_a_config_takes_no_positional_values() -> None:
    with pytest.raises(TypeError):
        Config("shop")  # type: ignore[misc]


def test_install_reads_the_variables_of_the_process(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBSKIT_MAX_SERIES", "lots")
    with pytest.raises(InstallError, match="environment variable OBSKIT_MAX_SERIES: saw 'lots'"):
        obskit.install(lambda environ, start_response: [])


@pytest.mark.parametrize(
    "wrong", [{"log_level": "loud"}, {"metrics_path": "metrics"}, {"max_series": 1}, {"exclude": "healthz"}]
)
def test_a_config_made_by_hand_is_held_to_the_same_rules(wrong: dict[str, Any]) -> None:
    with pytest.raises(InstallError, match=next(iter(wrong))):
        load({}, Config(**wrong))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("none", ()),
        (" NONE ", ()),
        ((), ()),
        (["findings"], ("findings",)),
        ("findings,errors,slow", ("errors", "slow", "findings")),
    ],
)
def test_which_traces_are_kept_is_a_list_of_reasons_or_none(said: Any, kept: tuple[str, ...]) -> None:
    assert load(keep_traces=said).keep_traces == kept


@pytest.mark.parametrize("said", ["none,errors", ",", ["errors", 1], {"errors": True}])
def test_no_other_reason_to_keep_a_trace_is_taken(said: Any) -> None:
    with pytest.raises(InstallError, match="none, or a list of errors, slow, findings"):
        load(keep_traces=said)
