"""Results as tables and figures; nothing here knows how a number came about."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.report.figures import comparison_bars
    from ressa.report.listings import layers_table, manifest_table, scores_table, towers_table
    from ressa.report.table import Table, comparison_table, recovered
else:
    __getattr__, __dir__ = door(
        __name__,
        figures="comparison_bars",
        listings="layers_table manifest_table scores_table towers_table",
        table="Table comparison_table recovered",
    )

__all__ = [
    "Table",
    "comparison_bars",
    "comparison_table",
    "layers_table",
    "manifest_table",
    "recovered",
    "scores_table",
    "towers_table",
]
