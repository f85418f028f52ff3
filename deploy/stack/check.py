#!/usr/bin/env python3
"""What the parts of the stack say of each other: hosts are services, files and directories are there, sources of Grafana are sources.

Jaeger's, Kibana's and Grafana's own settings have no tool here that would read them (docs/limits.md): this is what can be known of them.
"""

import pathlib
import re
import sys

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ELSEWHERE = {"127.0.0.1", "0.0.0.0", "localhost"}
ADDRESS = re.compile(r"^(?:https?://)?([a-z][a-z0-9.-]*|[0-9.]+):([0-9]{2,5})(?:/.*)?$")


def strings(node):
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from strings(item)
    elif isinstance(node, str):
        # A command's word may be a flag and its value.
        yield from node.removeprefix("--").split("=") if node.startswith("--") else [node]


def main():
    faults = []
    compose = yaml.safe_load((HERE / "compose.yaml").read_text())
    services = compose["services"]
    images = {service.get("image") for service in services.values()}
    for path in sorted(HERE.rglob("*.yaml")):
        for text in strings(yaml.safe_load(path.read_text())):
            found = ADDRESS.match(text)
            if found and text not in images and found[1] not in {*services, *ELSEWHERE}:
                faults.append(f"{path}: {text}: no service is called {found[1]}")
    for name, service in services.items():
        for source in (mount.split(":")[0] for mount in service.get("volumes", [])):
            if source.startswith(".") and not (HERE / source).exists():
                faults.append(f"{name}: {source} is not there")
        faults += [f"{name}: depends on {other}, which is not there" for other in service.get("depends_on", {}) if other not in services]
    provisioning = HERE / "grafana/provisioning"
    mounted = {mount.split(":")[1] for mount in services["grafana"]["volumes"]}
    for provider in yaml.safe_load((provisioning / "dashboards/geophone.yaml").read_text())["providers"]:
        if provider["options"]["path"] not in mounted:
            faults.append(f"Grafana: {provider['options']['path']} is not mounted")
    sources = yaml.safe_load((provisioning / "datasources/geophone.yaml").read_text())["datasources"]
    uids = {source["uid"] for source in sources}
    for source in sources:
        for destination in source.get("jsonData", {}).get("exemplarTraceIdDestinations", []):
            if destination["datasourceUid"] not in uids:
                faults.append(f"Grafana: {source['name']} leads to {destination['datasourceUid']}, which is no source")
    if len(uids) != len(sources) or sum(source.get("isDefault", False) for source in sources) != 1:
        faults.append("Grafana: uids are not one each, or there is not one default")
    print("\n".join(faults) or "no faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
