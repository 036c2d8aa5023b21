"""From a checkpoint to bundles: `export_all` is the main path of the program, `export_one` that of one bundle."""

from helium_edge.exporting.all import export_all
from helium_edge.exporting.fit import fit, split
from helium_edge.exporting.one import ExportResult, export_one
from helium_edge.exporting.plan import ExportPlan, plan
from helium_edge.exporting.request import ExportRequest

__all__ = ["ExportPlan", "ExportRequest", "ExportResult", "export_all", "export_one", "fit", "plan", "split"]
