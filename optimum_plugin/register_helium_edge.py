"""`optimum-cli export helium-edge`: the same options, work and exit codes as `helium-edge export`.

Installed as `optimum.commands.register.register_helium_edge`. optimum-cli imports every file of that folder when
it starts, so nothing heavy is imported here. The folder is a namespace package: it has no `__init__.py`.
"""

from __future__ import annotations

import argparse
import sys

from helium_edge.cli import _argparse
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class HeliumEdgeExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Hands what optimum-cli has parsed to the command line of helium-edge."""

    COMMAND = CommandInfo(name="helium-edge", help="Export Helium to a verified bundle for phones.")

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Add our options; optimum-cli calls this."""
        _argparse.add_arguments(parser, "export")

    def run(self) -> None:
        """Export, and end the process with our exit code."""
        sys.exit(_argparse.run("export", self.args))


REGISTER_COMMANDS = [(HeliumEdgeExportCommand, ExportCommand)]
