"""The dashboards as code. One file of `boards/` is one dashboard; the rest is what they share.

Built with grafana-foundation-sdk, whose models are those of Grafana itself, into the classic JSON that Grafana 10
to 13 import. Never part of the wheel: what travels in it is `grafana/dashboards/`.
"""
