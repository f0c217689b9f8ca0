"""The command line of the operator: ``sluice-operator run``. Reads settings, starts the process."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import cast

from sluice.errors import UserError
from sluice.runtime.logs import Format, configure_logs
from sluice.settings import FIELDS, add_flags, load_settings

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 when asked to end, 1 on failure, 2 for wrong settings."""
    parser = argparse.ArgumentParser("sluice-operator", description="The Sluice operator")
    commands = parser.add_subparsers(dest="command", required=True)
    add_flags(commands.add_parser("run", help="reconcile until told to end"))
    options = parser.parse_args(arguments)
    try:
        settings = load_settings({name: getattr(options, name) for name in FIELDS}, os.environ)
        configure_logs(settings.log_level, cast(Format, settings.log_format))
        # Only now: --help and a wrong setting answer at once.
        from sluice import process, reconcilers

        return asyncio.run(process.run(settings, reconcilers.build))
    except UserError as error:
        print(f"sluice-operator: {error}", file=sys.stderr)
        return USAGE_ERROR
    finally:
        logging.shutdown()


if __name__ == "__main__":
    sys.exit(main())
