"""Plain manifests, as they are made of those that Helm renders."""

import difflib

import yaml

HEAD = "# Made from the chart by `deploy/kubernetes/check.py --write`; do not edit.\n"


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
    return HEAD + yaml.safe_dump_all(items, sort_keys=False, width=120, allow_unicode=True)


def operations(old, new, path=""):
    """What makes `new` of `old`, as JSON Patch (RFC 6902) has it. Of lists only what was put in or taken out."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            here = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                yield {"op": "remove", "path": here}
            elif key not in old:
                yield {"op": "add", "path": here, "value": new[key]}
            else:
                yield from operations(old[key], new[key], here)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, both in enumerate(zip(old, new)):
            yield from operations(*both, f"{path}/{place}")
    elif isinstance(old, list) and isinstance(new, list):
        texts = [[yaml.safe_dump(item) for item in items] for items in (old, new)]
        # From the end, so that places before it stay where they are.
        for kind, first, last, at, end in reversed(difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes()):
            if kind in ("delete", "replace"):
                yield from ({"op": "remove", "path": f"{path}/{place}"} for place in reversed(range(first, last)))
            if kind in ("insert", "replace"):
                place = "-" if first == last == len(old) else first
                more = new[at:end] if place == "-" else reversed(new[at:end])
                yield from ({"op": "add", "path": f"{path}/{place}", "value": item} for item in more)
    elif old != new:
        yield {"op": "replace", "path": path, "value": new}


def component(below, above):
    """Files of a component that makes the objects `above` of `below`."""
    files, patches = {}, []
    for key, item in above.items():
        if key not in below:
            files.setdefault(f"{key[0].lower()}.yaml", []).append(item)
        elif item != below[key]:
            patch = yaml.safe_dump(list(operations(below[key], item)), sort_keys=False, width=120)
            # Kustomize takes the line break off the end, which may be that of a text.
            patch += "# end\n"
            patches.append({"target": {"kind": key[0], "name": key[1]}, "patch": patch})
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "resources": sorted(files), "patches": patches}
    kustomization = {key: value for key, value in kustomization.items() if value}
    return {name: dump(items) for name, items in files.items()} | {"kustomization.yaml": dump([kustomization])}
