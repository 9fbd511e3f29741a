"""The dashboards against the types that Grafana publishes of its own models: `make page-test`.

No package registry has Grafana's server, but npm has `@grafana/schema`: what its kinds and panels allow,
generated from Grafana's own schemas. A dashboard is given to TypeScript as an object of these types, so a
name that does not exist, a value that is none of its kind's, and what is required and absent are errors.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.exposed import ROOT, panels

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

MODULES = ROOT / "build/page-test/grafana/node_modules"
TYPES = MODULES / "@grafana/schema/dist/types"
TSC = MODULES / "typescript/bin/tsc"
DASHBOARDS = ROOT / "deploy/helm/slo-autoscaler/files/dashboards"
PANELS = ("heatmap", "stat", "table", "timeseries")
# In JSON an enumeration is its value. A panel's own options and fields are open in the dashboard's schema;
# they are put there here. What a panel does not say has its default in Grafana.
PRELUDE = """
type Loose<T> = T extends string ? `${T}` : T extends Array<infer U> ? Array<Loose<U>>
    : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;
type Fields = NonNullable<Panel["fieldConfig"]>;
type Of<Options, Custom> = Omit<Panel, "options" | "fieldConfig"> & {
    options: Partial<Options>;
    fieldConfig: Omit<Fields, "defaults"> & {
        defaults: Omit<Fields["defaults"], "custom"> & { custom?: Partial<Custom> };
    };
};
"""


OF_PROMETHEUS = {"expr", "titleFormat", "textFormat", "useValueForTime"}
"""Fields of an annotation that the dashboard's type leaves to the data source."""


def program(dashboards: dict[str, dict[str, Any]], types: str) -> str:
    """Return the TypeScript that says of each dashboard and each of its panels what it is."""
    lines = [f'import type {{ Dashboard, Panel, RowPanel }} from "{types}/raw/dashboard/x/types.gen";']
    lines += [
        f'import type * as {kind} from "{types}/raw/composable/{kind}/panelcfg/x/types.gen";'
        for kind in PANELS
    ]
    lines.append(PRELUDE)
    for name, whole in dashboards.items():
        marks = [
            {key: value for key, value in mark.items() if key not in OF_PROMETHEUS}
            for mark in whole["annotations"]["list"]
        ]
        rest = {key: value for key, value in whole.items() if key != "panels"}
        rest["annotations"] = {"list": marks}
        lines.append(f'export const {name}_whole: Loose<Omit<Dashboard, "panels">> = {json.dumps(rest)};')
        for panel in panels(whole):
            kind = panel["type"]
            custom = "object" if kind == "stat" else f"{kind}.FieldConfig"
            shape = "RowPanel" if kind == "row" else f"Of<{kind}.Options, {custom}>"
            lines.append(f"export const {name}_{panel['id']}: Loose<{shape}> = {json.dumps(panel)};")
    return "\n".join(lines) + "\n"


def complaints(dashboards: dict[str, dict[str, Any]], folder: Path) -> str:
    """Return what TypeScript has against them."""
    node = shutil.which("node")
    if node is None or not TSC.exists() or not TYPES.exists():
        pytest.skip("Grafana's types are not there: make page-test fetches them with npm")
    # Beside the packages, whose own imports are found from there.
    (folder / "node_modules").symlink_to(MODULES)
    (folder / "types").symlink_to(folder / "node_modules/@grafana/schema/dist/types")
    (folder / "dashboards.ts").write_text(program(dashboards, "./types"))
    done = subprocess.run(
        [
            *(node, str(TSC), "--noEmit", "--strict", "--skipLibCheck", "--preserveSymlinks"),
            *("--moduleResolution", "bundler", "--module", "esnext", "--target", "es2022", "dashboards.ts"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def dashboards() -> dict[str, dict[str, Any]]:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}
    assert len(found) == 3
    return found


def test_dashboards_are_what_grafanas_own_types_allow(dashboards, tmp_path):
    assert complaints(dashboards, tmp_path) == ""
