from __future__ import annotations

import sys

import pytest

from mobifarm.agent.metrics import MetricsError, serve_metrics


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MetricsError, match=r"mobifarm\[agent-metrics\]"):
        serve_metrics(0, (), list)
