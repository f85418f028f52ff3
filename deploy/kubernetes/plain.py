"""Plain manifests, as they are made of those that Helm renders."""

import yaml


def plain(item):
    """Without what only Helm reads."""
    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("labels"), dict):
                for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
                    node["labels"].pop(label, None)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)
    walk(item)
    return item


def literal(dumper, text):
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


yaml.SafeDumper.add_representer(str, literal)


def dump(items):
    head = "# Made from the chart by `deploy/kubernetes/check.py --write`; do not edit.\n"
    return head + yaml.safe_dump_all(items, sort_keys=False, width=120, allow_unicode=True)
