"""From a panel's row to Grafana's panel: one function for each form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model
from rules.names import promql

from generate.rows import NEEDS, Column, Panel, Query, Steps

SOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Kinds of work have the same colour everywhere.
COLORS = {
    "gaming": "purple",
    "llm_inference": "green",
    "ml_training": "blue",
    "general_compute": "orange",
    "unknown": "yellow",
    "idle": "#6e6e6e",
}
SEVERITIES = {"critical": "red", "warning": "orange", "info": "blue"}
LEADS = {
    "fleet": "Fleet",
    "gpu": "Node and GPU",
    "workloads": "Workloads",
    "models": "Models",
    "gpumon": "gpumon itself",
}

AnyPanel: TypeAlias = timeseries.Panel | stat.Panel | bargauge.Panel | table.Panel


def build_panel(panel: Panel, filters: dict[str, str]) -> AnyPanel:
    """Give a panel's builder, without its number and place; `filters` go to every query."""
    built = FORMS[panel.form](panel)
    built.title(panel.title).description(panel.words).datasource(SOURCE).unit(panel.unit)
    built.thresholds(_steps(panel.steps)).links([_more(panel)])
    if panel.needs and panel.form != "table":  # whose cells without a text would say it, too
        built.no_value(f"Needs {NEEDS[panel.needs]}")
    # A number's little graph is about its course, not about its size.
    if panel.minimum is not None and panel.form != "stat":
        built.min(panel.minimum)
    if panel.maximum is not None and panel.form != "stat":
        built.max(panel.maximum)
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    if panel.names:
        built.mappings([_mapping(panel)])
    for number, row in enumerate(panel.queries):
        built.with_target(_target(panel, row, chr(ord("A") + number), filters))
    return built


def _target(panel: Panel, row: Query, ref: str, filters: dict[str, str]) -> prometheus.Dataquery:
    built = prometheus.Dataquery().ref_id(ref).datasource(SOURCE).expr(promql(row.expr, filters))
    built.legend_format(row.legend or "__auto").editor_mode(prometheus_model.QueryEditorMode.CODE)
    if panel.form == "table":
        return built.instant().format(prometheus_model.PromQueryFormat.TABLE)
    return built.range() if _over_time(panel) else built.instant()


def _over_time(panel: Panel) -> bool:
    """Say whether a panel shows how numbers came about; one about the whole time shown is asked for once, at its end."""
    whole = any("$__range" in row.expr for row in panel.queries)
    return panel.form == "timeseries" or (panel.form == "stat" and not whole and not panel.names)


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
    legend.display_mode(options.LegendDisplayMode.LIST)
    built = (
        timeseries.Panel()
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
        .draw_style(options.GraphDrawStyle.BARS if panel.bars else options.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(60 if panel.bars else 35 if panel.stacked else 0)
        .show_points(options.VisibilityMode.NEVER)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.OFF))
    )
    if panel.stacked:
        built.stacking(common.StackingConfig().group("A").mode(options.StackingMode.NORMAL))
    for label, colors in (("category", COLORS), ("severity", SEVERITIES)):
        if any(f"{{{{{label}}}}}" == row.legend for row in panel.queries):
            for name, color in colors.items():
                built.override_by_name(name, [_property("color", {"mode": "fixed", "fixedColor": color})])
    if panel.unit == "short":
        built.axis_soft_max(1)  # a graph of nothing but 0 would reach to 100
    if panel.unlisted:
        hidden = {"legend": True, "tooltip": False, "viz": False}
        built.override_by_regexp(f"/{panel.unlisted}/", [_property("custom.hideFrom", hidden)])
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
        .graph_mode(options.BigValueGraphMode.AREA if _over_time(panel) else options.BigValueGraphMode.NONE)
        .color_mode(options.BigValueColorMode.BACKGROUND_SOLID if panel.names else options.BigValueColorMode.VALUE)
        .text_mode(options.BigValueTextMode.VALUE_AND_NAME if several else options.BigValueTextMode.VALUE)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    )


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
        name = panel.sort.removeprefix("-")
        built.sort_by([common.TableSortByFieldState().display_name(name).desc(name == panel.sort)])
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
    else:
        yield _property("custom.minWidth", 90)
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
    "bargauge": _bargauge,
    "table": _table,
}
