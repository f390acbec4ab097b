"""Write the dashboards as Grafana's files: `python infra/grafana/make.py [FOLDER]`, by default beside this file.

Thresholds and runbooks are those of infra/alerts.toml: run it again after a change there.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import operations
import overview
import read_path
import write_path
from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panels import BAD, OK, WARNING, Board, Panel

BOARDS = (overview.BOARD, write_path.BOARD, read_path.BOARD, operations.BOARD)

NOT_SHOWN = {
    "process_virtual_memory_bytes": "address space, most of it never touched; resident memory is shown",
    "python_gc_objects_collected_total": "has no bound that matters; the collections are shown",
}
"""Metrics of schemas/metrics.json that no panel shows, and why."""

ALERTS = {
    each["name"]: each
    for each in tomllib.loads((Path(__file__).parents[1] / "alerts.toml").read_text())["alert"]
}
SOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
VISIBLE: Any = None
"""Where links are by default; the library would put them into a menu."""

HEIGHTS = {"stat": 4}
BUILDERS: dict[str, Any] = {
    "stat": stat.Panel,
    "state-timeline": statetimeline.Panel,
    "table": table.Panel,
    "timeseries": timeseries.Panel,
}


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in files().items():
        (folder / name).write_text(text)


def files() -> dict[str, str]:
    """Return the content of each file by its name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{board.name}.json": f"{encoder.encode(built(board))}\n" for board in BOARDS}


def built(board: Board) -> model.Dashboard:
    """Build one dashboard."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.name)
        .description(board.about)
        .tags(["refold"])
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .variables(list(variables(board)))
        .links(list(links()))
        .annotation(restarts())
    )
    number = 0
    for title, panels in board.rows.items():
        number += 1
        made.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            made.with_panel(written(panel).id(number))
    return made.build()


def variables(board: Board) -> Iterator[Any]:
    """Yield what can be chosen: the source, the system (`job`), its instances, the board's own, and the window."""
    yield dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    yield one("job", "label_values(refold_build_info, job)").label("System")
    yield any_of("instance", 'label_values(up{job=~"$job"}, instance)')
    for label, metric in board.variables.items():
        yield any_of(label, f'label_values({metric}{{job=~"$job",instance=~"$instance"}}, {label})')
    yield (
        dashboard.CustomVariable("window")
        .label("Window of percentiles and counts")
        .values("1m,5m,15m,1h")
        .current(model.VariableOption(selected=True, text="5m", value="5m"))
    )
    yield (
        dashboard.ConstantVariable("repository")
        .label("Address of Refold's files, for links to runbooks")
        .value("https://git.example.org/refold/blob/main")
    )


def one(label: str, query: str) -> dashboard.QueryVariable:
    """Build a variable that has one value of a label."""
    return (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
    )


def any_of(label: str, query: str) -> dashboard.QueryVariable:
    """Build a variable that has any values of a label, at first all, also of series without the label."""
    everything = model.VariableOption(selected=True, text="All", value="$__all")
    return one(label, query).multi(True).include_all(True).all_value(".*").current(everything)


def links() -> Iterator[dashboard.DashboardLink]:
    """Yield the links at the top: the other dashboards, with the same choices and period, and the runbooks."""
    yield (
        dashboard.DashboardLink("Refold")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["refold"])
        .include_vars(True)
        .keep_time(True)
        .placement(VISIBLE)
    )
    yield link("Runbooks", "infra/runbooks")


def link(title: str, address: str) -> dashboard.DashboardLink:
    """Link to a file of the repository or, with a slash in front, to a dashboard."""
    return (
        dashboard.DashboardLink(title)
        .type(model.DashboardLinkType.LINK)
        .icon("doc")
        .url(address if address.startswith("/") else f"${{repository}}/{address}")
        .target_blank(not address.startswith("/"))
        .placement(VISIBLE)
    )


def restarts() -> dashboard.AnnotationQuery:
    """Mark when a process started."""
    started = 'changes(process_start_time_seconds{job=~"$job",instance=~"$instance"}[1m]) > 0'
    return (
        dashboard.AnnotationQuery()
        .name("Restarts")
        .datasource(SOURCE)
        .expr(started)
        .title_format("{{service}} {{instance}} restarted")
        .enable(True)
        .icon_color("blue")
        .placement(VISIBLE)
    )


def written(panel: Panel) -> Any:
    """Build one panel."""
    made = (
        BUILDERS[panel.kind]()
        .title(panel.title)
        .description(" ".join((panel.about, *map(described, (*panel.alerts, *panel.related)))))
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height or HEIGHTS.get(panel.kind, 7))
        .targets(list(targets(panel)))
        .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds(panel)))
        .links(list(panel_links(panel)))
        .no_value("none")
    )
    if panel.states:
        results = {
            str(value): model.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(panel.states.items())
        }
        made.mappings([model.ValueMap(options=results)])
    {"stat": as_stat, "state-timeline": as_timeline, "table": as_table, "timeseries": as_graph}[panel.kind](
        made, panel
    )
    return made


def targets(panel: Panel) -> Iterator[prometheus.Dataquery]:
    """Yield the queries; those of the 99th percentile with exemplars, which link to traces."""
    for name, (expression, legend) in zip(ascii_uppercase, panel.queries, strict=False):
        query = prometheus.Dataquery().ref_id(name).expr(expression).legend_format(legend).datasource(SOURCE)
        if panel.kind == "table":
            query.instant().format(PromQueryFormat.TABLE)
        else:
            query.range().exemplar("histogram_quantile(0.99" in expression)
        yield query


def thresholds(panel: Panel) -> list[model.Threshold]:
    """Colour values as the alerts on them judge; what is not one of a panel's states is bad."""
    if panel.states:
        return [model.Threshold(value=None, color=BAD)]
    steps = [model.Threshold(value=None, color=OK)]
    for alert in (ALERTS[name] for name in panel.alerts):
        color = BAD if alert["severity"] == "page" else WARNING
        steps.append(model.Threshold(value=alert["above"], color=color))
    return sorted(steps, key=lambda step: -1.0 if step.value is None else step.value)


def described(name: str) -> str:
    """Say when an alert fires."""
    alert = ALERTS[name]
    condition = " or ".join(f"{key} {alert[key]:g}" for key in ("above", "below") if key in alert)
    return f"{name} ({alert['severity']}): {condition} for {alert.get('for_seconds', 0):g} s."


def panel_links(panel: Panel) -> Iterator[dashboard.DashboardLink]:
    """Yield links to the dashboard that says more, with the same choices and period, and to runbooks."""
    if panel.more:
        title = next(board.title for board in BOARDS if board.name == panel.more)
        yield link(f"More: {title}", f"/d/{panel.more}?${{__url_time_range}}&${{__all_variables}}")
    for name in (*panel.alerts, *panel.related):
        if path := ALERTS[name].get("runbook"):
            yield link(f"Runbook: {name}", path)


def as_graph(made: timeseries.Panel, panel: Panel) -> None:
    """Draw lines from 0, with a table of last and greatest value below."""
    made.min(0).line_width(1).fill_opacity(40 if panel.is_stacked else 8).show_points(
        options.VisibilityMode.NEVER
    )
    made.legend(
        common.VizLegendOptions()
        .display_mode(options.LegendDisplayMode.TABLE)
        .placement(options.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    made.tooltip(
        common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    )
    if panel.is_stacked:
        made.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if panel.alerts:
        made.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)
        )


def as_stat(made: stat.Panel, panel: Panel) -> None:
    """Show the last value, large, coloured by state or threshold."""
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    made.color_mode(
        options.BigValueColorMode.BACKGROUND
        if panel.alerts or panel.states
        else options.BigValueColorMode.NONE
    )
    made.graph_mode(options.BigValueGraphMode.NONE)


def as_timeline(made: statetimeline.Panel, _: Panel) -> None:
    """Show states over time, a row for each series."""
    made.show_value(options.VisibilityMode.AUTO).merge_values(True).row_height(0.8)
    made.legend(common.VizLegendOptions().show_legend(False))


def as_table(made: table.Panel, panel: Panel) -> None:
    """Show labels as columns."""
    made.transformations(
        [
            model.DataTransformerConfig(
                id_val="filterFieldsByName", options={"include": {"names": list(panel.columns)}}
            ),
            model.DataTransformerConfig(
                id_val="organize",
                options={"indexByName": {name: index for index, name in enumerate(panel.columns)}},
            ),
        ]
    )


if __name__ == "__main__":
    main()
