"""`make test`: everything that CI runs, in the order in which a failure is cheapest to find.

verify, unit, property, then integration on the testbed's control plane, then end-to-end on its node.
stage says how long it took; the first failure ends the run.  The instance is the tests' own and is
taken down at the end unless KEEP=1; after a failure its logs are kept in reports/logs.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from testbed.cluster import Cluster, name_from

NAME = name_from(os.environ) + "-test"
LOGS = Path("reports") / "logs"


def run(stage: str, *command: str) -> None:
    """One stage; raises SystemExit with its exit code when it fails."""
    print(f"\n=== {stage}", flush=True)
    began = time.monotonic()
    environment = {**os.environ, "TESTBED_NAME": NAME}
    code = subprocess.run(command, check=False, env=environment).returncode
    print(
        f"=== {stage}: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    if code != 0:
        raise SystemExit(code)


def main() -> int:
    """All stages."""
    began = time.monotonic()
    pytest = (sys.executable, "-m", "pytest", "-m", "not nightly")
    testbed = (sys.executable, "-m", "testbed")
    run("verify", "make", "--no-print-directory", "verify")
    run("unit tests", *pytest, "tests/unit")
    run("property tests", *pytest, "tests/property")
    run("testbed: control plane", *testbed, "up", "--name", NAME)
    try:
        run("integration tests", *pytest, "tests/integration")
        if os.geteuid() == 0:
            run("testbed: node", *testbed, "up", "--tier", "node", "--name", NAME)
            run("end-to-end tests", *pytest, "tests/e2e")
        else:
            print(
                "\n=== end-to-end tests need root for the node tier and were not run: sudo make test"
            )
    except SystemExit:
        shutil.rmtree(LOGS, ignore_errors=True)
        shutil.copytree(Cluster(NAME).logs, LOGS, dirs_exist_ok=True)
        print(f"=== logs of the testbed: {LOGS}")
        raise
    finally:
        if not os.environ.get("KEEP"):
            run("testbed: down", *testbed, "down", "--name", NAME)
    print(f"\n=== everything passed in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
