"""Writes the CRDs and the field tables of the docs from the pydantic models.

`python -m sluice.api.generate` writes `crds/` and `docs/spec/` below `--root` (default: here);
`--check` writes nothing, shows what would change and exits 1 if anything would. No cluster is
asked.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from sluice import names
from sluice.api.base import JSON
from sluice.api.fieldtable import replace_table
from sluice.api.kinds import KINDS, VERSION, KindDefinition
from sluice.api.structural import make_structural

HEADER = "# Generated from operator/sluice/api by `python -m sluice.api.generate`. Do not edit.\n"


def make_crd(kind: KindDefinition) -> JSON:
    """The CustomResourceDefinition of a kind."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short_name],
                "categories": ["sluice"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.to_dict() for column in kind.columns],
                    "selectableFields": [{"jsonPath": path} for path in kind.selectable],
                    "schema": {"openAPIV3Schema": make_schema(kind)},
                }
            ],
        },
    }


def make_schema(kind: KindDefinition) -> JSON:
    """The OpenAPI v3 schema of a kind's objects."""
    status = make_structural(kind.status, "status")
    # The default is for the whole of status: one inside would come back whenever it is left out. And
    # status is one value to server-side apply: else the defaulted conditions, which nobody owns,
    # would stay beside what the operator writes, and Reconciling could never go away.
    status = make_structural(kind.status, "status")
    status = {
        "description": status.pop("description"),
        "default": kind.status_default,
        "x-kubernetes-map-type": "atomic",
        **status,
    }
    schema: JSON = {
        "description": kind.description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Always {names.API_VERSION}."},
            "kind": {"type": "string", "description": f"Always {kind.kind}."},
            "metadata": {"type": "object", "properties": {"name": kind.name_schema}},
            "spec": make_structural(kind.spec, "spec"),
            "status": status,
        },
    }
    if kind.rules:
        schema["x-kubernetes-validations"] = [rule.to_dict() for rule in kind.rules]
    return schema


def make_files(root: Path) -> dict[Path, str]:
    """Path -> content of everything that is generated; the docs' hand-written parts are kept."""
    files: dict[Path, str] = {}
    crds = root / "crds"
    for kind in KINDS:
        crd = make_crd(kind)
        files[crds / f"{names.GROUP}_{kind.plural}.yaml"] = HEADER + _dump(crd)
        page = root / "docs" / "spec" / f"{kind.kind.lower()}.md"
        files[page] = replace_table(page.read_text(encoding="utf-8"), make_schema(kind))
    files[crds / "kustomization.yaml"] = HEADER + _dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [path.name for path in sorted(files) if path.parent == crds],
        }
    )
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sluice.api.generate", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's root")
    options = parser.parse_args(arguments)
    drifted = False
    for path, wanted in make_files(options.root).items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == wanted:
            continue
        drifted = True
        if options.check:
            sys.stdout.writelines(
                difflib.unified_diff(
                    found.splitlines(keepends=True),
                    wanted.splitlines(keepends=True),
                    f"{path} (as it is)",
                    f"{path} (as generated)",
                )
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote {path}")
    if options.check and drifted:
        print("generated files differ: run `python -m sluice.api.generate`", file=sys.stderr)
        return 1
    return 0


class _Dumper(yaml.SafeDumper):
    """Plain YAML: no anchors, since schemas repeat whole subtrees."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _dump(value: JSON) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


if __name__ == "__main__":
    sys.exit(main())
