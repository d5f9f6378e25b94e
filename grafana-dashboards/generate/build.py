"""From rows to dashboards, by Grafana's own builders (grafana-foundation-sdk)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.models import dashboard as model
from rules.names import metric, promql

from generate.panels import SOURCE, build_panel
from generate.rows import Annotation, Dashboard, Panel, Row, Variable

TAG = "gpumon"
# Beyond what a dashboard has panels, so that the numbers of these do not move when a row is added.
ROW_ID = 1000


def build(row: Dashboard) -> model.Dashboard:
    """Give a dashboard as Grafana's model; names.UnknownNameError where an expression names what is not there."""
    built = (
        dashboard.Dashboard(row.title)
        .uid(f"gpumon-{row.key}")
        .description(row.description)
        .tags([TAG])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(_all_dashboards())
    )
    for variable in _variables(row):
        built.with_variable(variable)
    for mark in row.annotations:
        built.annotation(_annotation(mark, row.filters))
    _lay_out(built, row)
    return built.build()


def _lay_out(built: dashboard.Dashboard, row: Dashboard) -> None:
    """Add the panels, row below row; panels are numbered from 1, rows from ROW_ID."""
    y = 0
    numbers = itertools.count(1)
    for place_of_row, group in enumerate(row.rows):
        title = dashboard.Row(group.title).collapsed(group.collapsed).id(ROW_ID + place_of_row)
        title.grid_pos(model.GridPos(x=0, y=y, w=24, h=1))
        panels = []
        below = y = y + 1
        for panel, place in _places(group, y):
            panels.append(build_panel(panel, row.filters).id(next(numbers)).grid_pos(place))
            below = max(below, place.y + place.h)
        if group.collapsed:
            for one in panels:
                title.with_panel(one)
            built.with_row(title)
        else:
            built.with_row(title)
            for one in panels:
                built.with_panel(one)
            y = below


def _places(group: Row, y: int) -> Iterator[tuple[Panel, model.GridPos]]:
    """Give each panel its place: from left to right, and below where it does not fit any more."""
    x = height = 0
    for panel in group.panels:
        if x + panel.width > 24:
            x, y, height = 0, y + height, 0
        yield panel, model.GridPos(x=x, y=y, w=panel.width, h=panel.height)
        x, height = x + panel.width, max(height, panel.height)


def _all_dashboards() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("gpumon")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )


def _variables(row: Dashboard) -> Iterator[builder.Builder[model.VariableModel]]:
    yield dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    before: dict[str, str] = {}
    for variable in row.variables:
        yield _variable(variable, before)
        before[variable.label] = f"${variable.name}"
    if row.priced:
        yield (
            dashboard.TextBoxVariable("price")
            .label("Price per kWh")
            .default_value("0.25")
            .current(model.VariableOption(text="0.25", value="0.25"))
        )


def _variable(variable: Variable, filters: dict[str, str]) -> builder.Builder[model.VariableModel]:
    names = "|".join(metric(reading) for reading in variable.readings)
    chosen = ",".join(f'{label}=~"{value}"' for label, value in filters.items() if label in ("cluster", "instance"))
    matchers = ",".join(part for part in (f'__name__=~"{names}"', chosen) if part)
    asked = f"label_values({{{matchers}}}, {variable.label})"
    built = (
        dashboard.QueryVariable(variable.name)
        .label(variable.title)
        .datasource(SOURCE)
        .query({"query": asked, "refId": variable.name})
        .definition(asked)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
        .multi(variable.many)
    )
    if variable.many:
        # "All" is also what does not have the label: few Prometheis add a cluster, and few GPUs are in Kubernetes.
        built.include_all(True).all_value(".*").current(model.VariableOption(selected=True, text="All", value="$__all"))
    return built


def _annotation(mark: Annotation, filters: dict[str, str]) -> dashboard.AnnotationQuery:
    expr = promql(mark.expr, filters)
    return (
        dashboard.AnnotationQuery()
        .name(mark.name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(mark.color)
        .target(prometheus.Dataquery().ref_id("Anno").expr(expr))
        .expr(expr)  # where Grafana looked for it before it had targets
        .title_format(mark.title)
        .text_format(mark.text)
    )
