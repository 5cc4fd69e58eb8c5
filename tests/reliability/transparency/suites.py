"""Which suites there are: the source distribution, what its tests need, and how it runs them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# What in Django is about HTTP, or uses a client to get at it.
DJANGO = """
handlers requests_tests middleware middleware_exceptions sessions_tests asgi wsgi test_client test_client_regress
servers file_uploads view_tests urlpatterns urlpatterns_reverse csrf_tests httpwrappers staticfiles_tests logging_tests
responses conditional_processing decorators syndication_tests i18n signed_cookies_tests messages_tests cache auth_tests
generic_views sitemaps_tests flatpages_tests redirects_tests sites_tests shortcuts template_tests test_utils
context_processors resolve_url async builtin_server admin_views admin_docs
""".split()


@dataclass(frozen=True)
class Taken:
    """Tests that look at the very thing which obskit openly takes over: they fail installed, and why is written here.

    What can be switched off is: the tests are run again so, and have to pass, or they count as new failures.
    """

    tests: str
    """A regular expression that all of their name matches."""
    why: str
    switch: tuple[tuple[str, str], ...] = ()
    """Variables of the environment that switch it off."""
    control: str = ""
    """What is switched off in the framework, bare, by its own means: only what fails then, too, is taken over."""


@dataclass(frozen=True)
class Suite:
    """A framework's own tests."""

    name: str
    folder: str
    """Where in its source distribution they are run."""
    needs: tuple[str, ...]
    """Arguments of pip; `{source}` is the unpacked source distribution."""
    tests: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    uses_pytest: bool = True
    taken: tuple[Taken, ...] = ()

    @property
    def version(self) -> str:
        pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
        found = re.search(rf"^{self.name}==(\S+)$", pins, re.MULTILINE | re.IGNORECASE)
        if found is None:
            raise LookupError(f"constraints.txt names no version of {self.name}")
        return found[1]


NATIVE_SPANS = "the one SERVER span of a request is obskit's, and the framework's own spans are off"
ONE_PIPELINE = (("OBSKIT_CAPTURE_LOGS", "off"),)
_SPANS = "|".join(
    """
    test_excluded_urls test_exclusion_propagates_to_nested_native_middleware test_explicit_noop_tracer_provider
    test_http_span_records_server_error test_http_span_uses_mount_path_for_raw_asgi_app
    test_http_span_uses_mount_path_when_child_does_not_resolve test_http_span_uses_route_and_semantic_attributes
    test_non_http_scopes_are_not_traced test_provider_configured_after_middleware_stack_is_built
    """.split()
)

# They pass bare with native spans off, for then there is no span at all, or that of another instrumentation.
OURS_INSTEAD = (
    "there is a SERVER span though the native one is off: obskit's; another instrumentation of the same application "
    "stands aside; and obskit needs the OpenTelemetry SDK that they do without"
)
_OURS_INSTEAD = "|".join(
    """
    test_background_task_integrations test_current_contrib test_current_logfire
    test_independent_signals test_disabled_and_excluded_connections
    test_independent_log_configuration test_unexpected_exception
    test_api_only_and_no_implicit_sdk_import test_missing_sdk_warns_without_preventing_startup
    """.split()
)

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "starlette",
            ".",
            ("--group", "{source}/pyproject.toml:dev"),
            ("tests",),
            taken=(
                Taken(
                    rf"tests/middleware/test_opentelemetry\.py::({_SPANS})(\[.*\])?",
                    NATIVE_SPANS,
                ),
            ),
        ),
        Suite(
            "fastapi",
            ".",
            ("--group", "{source}/pyproject.toml:tests", "fastapi[all]"),
            ("tests",),
            taken=(
                Taken(
                    r"tests/(test_telemetry|test_tutorial/test_opentelemetry)/.*",
                    NATIVE_SPANS,
                    control="native spans off",
                ),
                Taken(rf"tests/test_telemetry/.*::({_OURS_INSTEAD})(\[.*\])?", OURS_INSTEAD),
            ),
        ),
        # Its tests want a private name of pytest that 9.1 has no longer.
        Suite(
            "flask",
            ".",
            ("--group", "{source}/pyproject.toml:tests", "pytest<9.1"),
            ("tests",),
            taken=(
                Taken(
                    r"tests/test_logging\.py::"
                    r"(test_logger|test_logger_debug|test_log_view_exception|test_wsgi_errors_stream)",
                    "the application's log lines leave through one pipeline, and not through Flask's own handler",
                    ONE_PIPELINE,
                ),
            ),
        ),
        Suite(
            "werkzeug",
            ".",
            ("--group", "{source}/pyproject.toml:tests"),
            ("tests",),
            # Without it, a development server that does not start is waited for without end.
            ("--timeout=60",),
        ),
        Suite(
            "django",
            "tests",
            ("-r", "{source}/tests/requirements/py3.txt"),
            tuple(DJANGO),
            ("--parallel=1", "--verbosity=0"),
            uses_pytest=False,
            taken=(
                Taken(
                    r"(view_tests|logging_tests)\..*",
                    "log lines leave through one pipeline, and not through the console handler of Django's logger",
                    ONE_PIPELINE,
                ),
            ),
        ),
    )
}
