"""What a Grafana dashboard is made of here, over the builders of grafana-foundation-sdk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders import prometheus as queries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and what its lines are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time; with ``now`` one number, with ``rows`` a table of this moment."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    description: str = ""
    stacked: bool = False
    now: bool = False
    rows: bool = False
    maximum: float | None = None

    def build(self) -> timeseries.Panel | stat.Panel | table.Panel:
        """The SDK's builder of it."""
        panel: timeseries.Panel | stat.Panel | table.Panel
        if self.now:
            panel = stat.Panel().span(4).height(4)
        elif self.rows:
            panel = table.Panel().span(24).height(7)
        else:
            panel = self._lines()
        panel = panel.title(self.title).unit(self.unit).datasource(SOURCE)
        if self.description:
            panel = panel.description(self.description)
        for index, query in enumerate(self.queries):
            target = queries.Dataquery().expr(query.expression).ref_id(chr(ord("A") + index))
            target = target.legend_format(query.legend or "__auto").datasource(SOURCE)
            if self.rows:
                target = target.instant().format(PromQueryFormat.TABLE)
            panel = panel.with_target(target)
        return panel

    def _lines(self) -> timeseries.Panel:
        panel = (
            timeseries.Panel()
            .span(12)
            .height(8)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
                .calcs([])
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        )
        if self.maximum is not None:
            panel = panel.min(0).max(self.maximum)
        if self.stacked:
            panel = panel.min(0).fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        return panel


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; ``variables`` are names and the series whose label of that name they choose from."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    variables: Mapping[str, str]
    several: bool = False  # whether a variable may have several values at once

    def panels(self) -> list[Panel]:
        """All panels in their order."""
        return [panel for row in self.rows.values() for panel in row]

    def to_json(self) -> str:
        """What Grafana reads."""
        board = (
            Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags(["mobifarm"])
            .time("now-30m", "now")
            .refresh("10s")
            .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        )
        for name, series in self.variables.items():
            variable = (
                QueryVariable(name)
                .label(name.capitalize())
                .query(f"label_values({series}, {name})")
                .datasource(SOURCE)
                .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(VariableSort.NATURAL_ASC)
                .hide(VariableHide.DONT_HIDE)
            )
            if self.several:
                every = VariableOption(selected=True, text="All", value="$__all")
                variable = variable.multi(True).include_all(True).all_value(".*").current(every)
            board = board.with_variable(variable)
        numbers = count(1)
        for title, panels in self.rows.items():
            board = board.with_row(Row(title).id(next(numbers)))
            for panel in panels:
                board = board.with_panel(panel.build().id(next(numbers)))
        return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"
