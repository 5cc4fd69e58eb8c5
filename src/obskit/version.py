"""The version of obskit, from the installed distribution."""

import re
from importlib.metadata import PackageNotFoundError, distribution

_VERSION = re.compile(r"^Version: (\S+)", re.MULTILINE)


def _installed() -> str:
    try:
        found = distribution("obskit-web")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
    # Its own parser reads the whole README behind it as a mail, which takes milliseconds of every start.
    match = _VERSION.search(found.read_text("METADATA") or "")
    return match[1] if match else found.version


__version__ = _installed()
