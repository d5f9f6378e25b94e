"""Every panel over a real Prometheus that scraped simulated nodes: it has data, or the node lacks what it needs.

Needs Debian's prometheus, and Go once to build the collector; run by `make e2e`.
"""

from __future__ import annotations

import re

import pytest
from rules.names import promql

from generate.common import xids
from generate.rows import NEEDS
from tests.grafana import boards, filled, servers
from tests.grafana.prometheus import Prometheus

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("key", boards.KEYS)
@pytest.mark.parametrize("node", filled.LACKS)
def test_every_query_has_data_where_the_node_has_what_it_needs(key: str, node: str, prometheus: Prometheus) -> None:
    """And none where it has not, so that no need is stated in vain."""
    filled.assert_filled(prometheus, key, node, filled.LACKS[node])


def test_every_need_is_met_somewhere() -> None:
    """No panel is allowed to be empty everywhere."""
    assert not set.intersection(*filled.LACKS.values())
    assert set.union(*filled.LACKS.values()) <= set(NEEDS)


@pytest.mark.parametrize("key", boards.KEYS)
def test_every_variable_offers_something(key: str, prometheus: Prometheus) -> None:
    """Nodes, GPUs, models and namespaces can be chosen; a cluster only where somebody adds that label."""
    for variable in boards.board(key)["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert found is not None
            expr = boards.interpolate(found[1], filled.values(key, ".*"))
            offered = prometheus.label_values(expr, found[2])
            assert bool(offered) == (variable["name"] != "cluster"), variable["name"]


@pytest.mark.parametrize("key", boards.KEYS)
def test_every_annotation_marks_what_happened(key: str, prometheus: Prometheus) -> None:
    """On the node that has everything, of which a GPU is down and counters grow; and on healthy nodes nothing."""
    for annotation in boards.board(key)["annotations"]["list"]:
        expr = annotation["expr"]
        marked = prometheus.over(boards.interpolate(expr, filled.values(key, "everything")), filled.WINDOW)
        healthy = prometheus.over(boards.interpolate(expr, filled.values(key, "a100x8")), filled.WINDOW)
        assert not healthy or annotation["name"] == "Alert", annotation["name"]  # see filled.MAYBE
        assert marked or annotation["name"] == "gpumon started", annotation["name"]


def test_the_first_xid_of_its_kind_counts(prometheus: Prometheus) -> None:
    """One that comes once has a series that begins with 1, of which Prometheus's increase() alone tells nothing."""
    values = filled.values("gpu", "everything")
    counted = prometheus.instant(boards.interpolate(promql(f"sum by (xid) ({xids('$__range')})"), values))
    assert [one["value"][1] for one in counted if one["metric"]["xid"] == servers.ONCE] == ["1"]


@pytest.mark.parametrize("key", boards.KEYS)
def test_every_query_has_data_by_otlp_as_by_scraping(key: str, prometheus: Prometheus) -> None:
    """Of a node that sends through a collector, by the names of /metrics; and the exports themselves show as well."""
    if not prometheus.pushed:
        pytest.skip("NOT TESTED through a real collector: Go is not installed, or the collector cannot be built")
    filled.assert_filled(prometheus, key, filled.PUSHED, (filled.LACKS["h100x8"] | filled.MODELS) - {"otlp"})
