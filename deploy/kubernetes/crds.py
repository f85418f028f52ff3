"""Schemas of kinds that are not Kubernetes' own."""

import functools
import json
import pathlib

import jsonschema
import yaml

# kind: schema of what is not Kubernetes' own, without its descriptions (Apache-2.0): PodMonitor, ServiceMonitor and PrometheusRule of
# the Prometheus operator 0.93.0, SecurityContextConstraints of openshift/api 2a3d739, Certificate of cert-manager 2d0d7f7.
CRDS = pathlib.Path(__file__).resolve().parent / "crds.json"


@functools.cache
def foreign():
    return {kind: jsonschema.Draft202012Validator(schema) for kind, schema in json.loads(CRDS.read_text()).items()}


def strict(node):
    """A CRD's schema as JSON Schema has it, in which what is not named is refused."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    # A property may be called `description`, but is no text.
    node = {key: strict(value) for key, value in node.items() if key != "description" or not isinstance(value, str)}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object" and not node.get("x-kubernetes-preserve-unknown-fields"):
        node["additionalProperties"] = False
    if node.get("nullable") is True:
        node["type"] = [node["type"], "null"]
    return node


def write_crds(paths):
    schemas = {}
    for path in paths:
        spec = yaml.safe_load(pathlib.Path(path).read_text())["spec"]
        stored = next(version for version in spec["versions"] if version["storage"])
        schemas[spec["names"]["kind"]] = strict(stored["schema"]["openAPIV3Schema"])
    CRDS.write_text(json.dumps(dict(sorted(schemas.items())), separators=(",", ":")) + "\n")
