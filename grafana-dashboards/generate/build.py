"""From rows to Grafana's JSON, by Grafana's own builders (grafana-foundation-sdk)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from grafana_foundation_sdk.builders import bargauge, common, dashboard, gauge, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model

from generate.names import metric, query
from generate.rows import Annotation, Column, Dashboard, Panel, Query, Row, Steps, Variable

SOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "gpumon"
# Kinds of work have the same colour everywhere.
COLORS = {
    "gaming": "purple",
    "llm_inference": "green",
    "ml_training": "blue",
    "general_compute": "orange",
    "unknown": "yellow",
    "idle": "#6e6e6e",
}
LEADS = {
    "fleet": "Fleet",
    "gpu": "Node and GPU",
    "workloads": "Workloads",
    "models": "Models",
    "gpumon": "gpumon itself",
}

Built: TypeAlias = builder.Builder[model.Panel]
AnyPanel: TypeAlias = timeseries.Panel | stat.Panel | gauge.Panel | bargauge.Panel | table.Panel


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
    y, number = 0, 0
    for group in row.rows:
        built.with_row(_row(group, y))
        y += 1
        for panel, place in _places(group, y):
            number += 1
            built.with_panel(_panel(panel, row.filters).id(number).grid_pos(place))
            y = max(y, place.y + place.h)
    return built.build()


def _row(group: Row, y: int) -> dashboard.Row:
    return dashboard.Row(group.title).grid_pos(model.GridPos(x=0, y=y, w=24, h=1))


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
    names = "|".join(metric(*reading.split(".")) for reading in variable.readings)
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
    return (
        dashboard.AnnotationQuery()
        .name(mark.name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(mark.color)
        .expr(query(mark.expr, filters))
        .title_format(mark.title)
        .text_format(mark.text)
    )


def _panel(panel: Panel, filters: dict[str, str]) -> AnyPanel:
    built = FORMS[panel.form](panel)
    built.title(panel.title).description(panel.words).datasource(SOURCE).unit(panel.unit)
    built.thresholds(_steps(panel.steps)).links([_more(panel)])
    if panel.minimum is not None:
        built.min(panel.minimum)
    if panel.maximum is not None:
        built.max(panel.maximum)
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    if panel.names:
        built.mappings([_mapping(panel)])
    for number, row in enumerate(panel.queries):
        built.with_target(_target(panel, row, chr(ord("A") + number), filters))
    return built


def _target(panel: Panel, row: Query, ref: str, filters: dict[str, str]) -> prometheus.Dataquery:
    built = prometheus.Dataquery().ref_id(ref).datasource(SOURCE).expr(query(row.expr, filters))
    built.legend_format(row.legend or "__auto").editor_mode(prometheus_model.QueryEditorMode.CODE)
    if panel.form == "table":
        return built.instant().format(prometheus_model.PromQueryFormat.TABLE)
    # A number that is of the whole time shown is asked for once, at its end.
    return built.instant() if panel.form != "timeseries" else built.range()


def _steps(steps: Steps) -> dashboard.ThresholdsConfig:
    rows = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(rows)


def _more(panel: Panel) -> dashboard.DashboardLink:
    url = f"/d/gpumon-{panel.more}?${{__url_time_range}}&${{datasource:queryparam}}&${{cluster:queryparam}}"
    return (
        dashboard.DashboardLink(f"More: {LEADS[panel.more]}")
        .type(model.DashboardLinkType.LINK)
        .url(f"{url}&${{node:queryparam}}")
    )


def _mapping(panel: Panel) -> model.ValueMap:
    return model.ValueMap(
        options={
            f"{value:g}": model.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(panel.names.items())
        }
    )


def _timeseries(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).placement(options.LegendPlacement.BOTTOM)
    if panel.legend == "table":
        legend.display_mode(options.LegendDisplayMode.TABLE).calcs(["mean", "max", "lastNotNull"])
    else:
        legend.display_mode(options.LegendDisplayMode.LIST)
    built = (
        timeseries.Panel()
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
        .draw_style(options.GraphDrawStyle.BARS if panel.bars else options.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(60 if panel.bars else 35 if panel.stacked else 8)
        .show_points(options.VisibilityMode.NEVER)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.OFF))
    )
    if panel.stacked:
        built.stacking(common.StackingConfig().group("A").mode(options.StackingMode.NORMAL))
    coloured = COLORS if any("{{category}}" in row.legend for row in panel.queries) else {}
    for category, color in coloured.items():
        built.override_by_name(category, [_property("color", {"mode": "fixed", "fixedColor": color})])
    if panel.dashed:
        built.override_by_regexp(f"/^{panel.dashed}$/", DASHED)
    return built


def _property(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


DASHED = [
    _property("color", {"mode": "fixed", "fixedColor": "red"}),
    _property("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
    _property("custom.fillOpacity", 0),
    _property("custom.stacking", {"mode": "none", "group": "B"}),
]


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _stat(panel: Panel) -> stat.Panel:
    several = len(panel.queries) > 1 or bool(panel.queries[0].legend)
    return (
        stat.Panel()
        .reduce_options(_last())
        .graph_mode(options.BigValueGraphMode.NONE)
        .color_mode(options.BigValueColorMode.BACKGROUND_SOLID if panel.names else options.BigValueColorMode.VALUE)
        .text_mode(options.BigValueTextMode.VALUE_AND_NAME if several else options.BigValueTextMode.VALUE)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    )


def _gauge(_: Panel) -> gauge.Panel:
    thresholds = dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)
    return gauge.Panel().reduce_options(_last()).show_threshold_markers(True).color_scheme(thresholds)


def _bargauge(_: Panel) -> bargauge.Panel:
    return (
        bargauge.Panel()
        .reduce_options(_last())
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .value_mode(options.BarGaugeValueMode.TEXT)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    )


def _table(panel: Panel) -> table.Panel:
    """Give a table: the queries' results joined by their labels, with titles, and only the labels that are asked for."""
    titles = dict(panel.labels)
    several = len(panel.queries) > 1
    for number, row in enumerate(panel.queries):
        titles[f"Value #{chr(ord('A') + number)}" if several else "Value"] = row.column
    order = {name: position for position, name in enumerate(titles)}
    shown = {name: title for name, title in titles.items() if title}
    built = table.Panel().with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    built.with_transformation(
        model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"pattern": _one_of(shown)}})
    )
    built.with_transformation(
        model.DataTransformerConfig(id_val="organize", options={"indexByName": order, "renameByName": shown})
    )
    if panel.sort:
        built.sort_by([common.TableSortByFieldState().display_name(panel.sort).desc(True)])
    for column in panel.columns:
        built.override_by_name(column.name, list(_cells(column)))
    return built.cell_height(options.TableCellHeight.SM)


def _one_of(names: dict[str, str]) -> str:
    return f"/^({'|'.join(names)})$/"


def _cells(column: Column) -> Iterator[model.DynamicConfigValue]:
    if column.unit:
        yield _property("unit", column.unit)
    if column.decimals is not None:
        yield _property("decimals", column.decimals)
    if column.width:
        yield _property("custom.width", column.width)
    if column.maximum is not None:
        yield _property("max", column.maximum)
    if column.steps:
        steps = [{"value": value, "color": color} for value, color in column.steps]
        yield _property("thresholds", {"mode": "absolute", "steps": steps})
        yield _property("color", {"mode": "thresholds"})
        how = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"} if column.bar else {"type": "color-text"}
        yield _property("custom.cellOptions", how)
    if column.link:
        yield _property("links", [{"title": "Show it", "url": column.link}])


FORMS: dict[str, Callable[[Panel], AnyPanel]] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "gauge": _gauge,
    "bargauge": _bargauge,
    "table": _table,
}
