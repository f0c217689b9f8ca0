"""The command ``python -m testbed``: parses, chooses, prints.  Decides nothing about a cluster."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import cast

from testbed import build, doctor, existing, images, kind, kwok, local
from testbed.cluster import TIERS, Cluster, Tier, name_from
from testbed.errors import ClusterError
from testbed.progress import Progress


def make_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="python -m testbed",
        description="A real Kubernetes on this machine. TESTBED=local (default), kind or existing "
        "says where it comes from; with existing, TESTBED_CONTEXT names the kubeconfig context.",
    )
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument(
        "--name",
        default=name_from(os.environ),
        help="instance; several live side by side (default: TESTBED_NAME, or sluice)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", parents=[named], help="bring an instance up")
    up.add_argument("--tier", choices=TIERS, default=TIERS[0])
    up.add_argument("--nodes", type=int, help="simulated GPU nodes, at least (default 4)")
    commands.add_parser("down", parents=[named], help="stop and remove all of an instance")
    commands.add_parser("env", parents=[named], help="print export lines for a shell")
    inside = commands.add_parser(
        "exec", parents=[named], help="run a command inside the network namespace"
    )
    inside.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    examine = commands.add_parser("doctor", parents=[named], help="say what is built and running")
    examine.add_argument("--tier", choices=TIERS)
    builder = commands.add_parser("build", help="build what a tier needs, start nothing")
    builder.add_argument("--tier", choices=TIERS, default=TIERS[0])
    nodes = commands.add_parser(
        "nodes", parents=[named], help="have at least COUNT simulated nodes"
    )
    nodes.add_argument("count", type=int)
    loading = commands.add_parser(
        "images", parents=[named], help="build images, load them into the node, print references"
    )
    loading.add_argument(
        "image", nargs="*", help="operator, inference-cpu (default: both), inference-gpu"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it did what was asked."""
    arguments = make_parser().parse_args(argv)
    try:
        return _run(arguments)
    except ClusterError as error:
        sys.stderr.write(f"testbed: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "testbed: interrupted; `python -m testbed down` removes what was started\n"
        )
        return 130


def _run(arguments: argparse.Namespace) -> int:
    progress = Progress()
    source = os.environ.get("TESTBED") or "local"
    if source == "existing":
        return existing.run(arguments.command, os.environ)
    if source == "kind":
        return kind.run(arguments.command, getattr(arguments, "name", ""), progress)
    if source != "local":
        raise ClusterError(f"TESTBED={source!r}: allowed are local, kind, existing")
    match arguments.command:
        case "build":
            build.ensure(local.components(cast(Tier, arguments.tier)), progress)
        case "up":
            local.up(Cluster(arguments.name), cast(Tier, arguments.tier), progress)
            if arguments.nodes is not None:
                kwok.ensure_nodes(Cluster.load(arguments.name), arguments.nodes)
        case "down":
            local.down(Cluster(arguments.name), progress)
        case "nodes":
            kwok.ensure_nodes(Cluster.load(arguments.name), arguments.count)
        case "env":
            cluster = Cluster.load(arguments.name)
            sys.stdout.write(
                f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}\n"
                f"export TESTBED_NAME={shlex.quote(cluster.name)}\n"
                f'export PATH={shlex.quote(str(cluster.bin))}:"$PATH"\n'
            )
            if cluster.tier == "node":
                url = f"http://127.0.0.1:{cluster.gateway_port()}"
                sys.stdout.write(f"export TESTBED_GATEWAY={url}\n")
        case "exec":
            return _exec(Cluster.load(arguments.name), arguments.argv)
        case "images":
            wanted = arguments.image or ["operator", "inference-cpu"]
            for reference in images.ensure(Cluster.load(arguments.name), wanted, progress).values():
                sys.stdout.write(f"{reference}\n")
        case "doctor":
            return _doctor(arguments)
    return 0


def _exec(cluster: Cluster, argv: list[str]) -> int:
    command = argv[1:] if argv[:1] == ["--"] else argv
    if not command:
        raise ClusterError("exec needs a command: python -m testbed exec -- kubectl get pods")
    return subprocess.run(
        [*cluster.enter, *command], env=cluster.environment(), check=False
    ).returncode


def _doctor(arguments: argparse.Namespace) -> int:
    cluster = Cluster(arguments.name)
    tier = cast(Tier, arguments.tier or cluster.tier or TIERS[0])
    findings = doctor.examine(cluster, local.components(tier))
    sys.stdout.write(doctor.render(findings) + "\n")
    if cluster.tier == "node":
        sys.stdout.write(f"\n{doctor.describe_gateway(cluster)}\n")
    if cluster.tier is None:
        sys.stdout.write(
            f"\n{cluster.name} is not up: python -m testbed up --name {cluster.name}\n"
        )
        return 1
    return 0 if all(f.is_good is not False for f in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
