"""Results as tables and figures; nothing here knows how a number came about."""

from ressa.report.figures import comparison_bars
from ressa.report.listings import layers_table, manifest_table, scores_table, towers_table
from ressa.report.table import Table, comparison_table, recovered

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
