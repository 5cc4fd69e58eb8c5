"""On the path of every server of the conformance suite: each case asks for pages of its own, far faster than anybody
scrapes, and would be given old ones."""

from obskit.signals import pages

pages.BURST_S = 1e9
