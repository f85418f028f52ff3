#!/usr/bin/env python3
"""Checks the chart by Helm itself, its manifests against the API's schemas, and kustomize against the chart.

    cargo xtask setup deploy && . target/python/bin/activate
    deploy/kubernetes/check.py [chart|kustomize]   # says what is wrong, exit status 1; kustomize needs kubectl
    deploy/kubernetes/check.py --write             # writes what is made from the chart: kustomize/base/geophone.yaml and the like
    deploy/kubernetes/check.py --crds FILE…        # writes crds.json, the schemas of kinds that are not Kubernetes' own

With GEOPHONE_BIN the agent's own program reads each configuration that the chart makes.
"""

import base64
import functools
import gzip
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile

import helm_python
import kubernetes_validate
import yaml

from cases import BAD, CAPABILITIES, COMPONENTS, DEFAULT, GOOD
from crds import foreign, write_crds
from notes import NOTES, bearer, mutual
from plain import component, dump, plain

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE / "helm/geophone"
KUSTOMIZE = HERE / "kustomize"
PLATFORMS = sorted(path.stem for path in (CHART / "platforms").glob("*.yaml"))
OVERLAYS = sorted(path.name for path in (KUSTOMIZE / "overlays").iterdir())
# The oldest that the chart admits, and those that are maintained.
VERSIONS = ["1.25", "1.29", "1.33", "1.35", "1.37"]

# All that the agent asks of the API.
RIGHTS = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
]
RIGHTS_OF_PEERS = [
    {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]

faults = []
seen = set()


def fault(what):
    faults.append(what)


@functools.cache
def chart(version, token="{}"):
    """As a cluster of that version sees it, whose secret of the token has this `data`: the library has one version only, and no
    cluster, so the questions are answered in the templates."""
    asked = 'lookup "v1" "Secret" .Release.Namespace (include "geophone.tokenSecret" .)'
    with tempfile.TemporaryDirectory() as directory:
        copy = shutil.copytree(CHART, pathlib.Path(directory) / "geophone")
        for path in (copy / "templates").rglob("*.*"):
            text = path.read_text().replace(".Capabilities.KubeVersion.Version", f'"v{version}.0"')
            path.write_text(text.replace(asked, f"dict `data` (fromJson `{token}`)"))
        return helm_python.Chart.load(str(copy))


def render(values, version=VERSIONS[-1], **there):
    """Objects of the chart by (kind, name), and its notes."""
    release = chart(version, **there)
    release.validate_schema(release.merge_values(values))
    objects, notes = {}, ""
    for path, text in release.render(values, name="geophone", namespace="geophone").items():
        if path.endswith("NOTES.txt"):
            notes = text
            continue
        for item in yaml.load_all(text, Loader=yaml.CSafeLoader):
            if item:
                key = (item["kind"], item["metadata"]["name"])
                if key in objects:
                    fault(f"{path}: {key} a second time")
                objects[key] = item
    return objects, notes


def manifests(values):
    """What somebody without Helm applies."""
    return {key: plain(item) for key, item in render(values)[0].items() if not is_test(item)}


def is_test(item):
    return "helm.sh/hook" in item["metadata"].get("annotations", {})


def lint():
    for name, values in GOOD.items():
        report = helm_python.lint(str(CHART), values, strict=True)
        for message in report["messages"]:
            if message["severity"] >= 2:
                fault(f"helm lint, {name}: {message['path']}: {message['error']}")
        for error in report["errors"]:
            fault(f"helm lint, {name}: {error}")


def schemas(name, rendered):
    for version, objects in rendered.items():
        for (kind, called), item in objects.items():
            # Most are those of another case: each is looked at once.
            this = (kind in foreign() or version, json.dumps(item))
            if this in seen:
                continue
            seen.add(this)
            try:
                if kind in foreign():
                    foreign()[kind].validate(item)
                else:
                    kubernetes_validate.validate(item, version, strict=True)
            except Exception as error:  # jsonschema's, and its own
                fault(f"{name}: {kind}/{called} is not valid in {version}: {str(error).splitlines()[0]}")


def said(name, values, notes):
    for words, wanted in NOTES:
        if (words in notes) != wanted(values):
            fault(f"{name}: NOTES {'do not say' if words not in notes else 'say'} {words!r}:\n{notes}")
    if "<no value>" in notes or "daemonset/geophone " not in notes:
        fault(f"{name}: NOTES:\n{notes}")


def configuration(name, objects):
    container = objects["DaemonSet", "geophone"]["spec"]["template"]["spec"]["containers"][0]
    given = {item["name"]: item.get("value") for item in container["env"]}
    mounted = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
    if given.get("GEOPHONE_CONFIG") != mounted["config"] + "/geophone.yaml":
        fault(f"{name}: what is started by `kubectl exec` does not read the pod's settings")
    text = objects["ConfigMap", "geophone"]["data"]["geophone.yaml"]
    files = yaml.safe_load(text)["api"]
    if ("token_file" in files) != ("token" in mounted) or ("tls" in files) != ("tls" in mounted):
        fault(f"{name}: {files} are read, {mounted} are mounted")
    own = GOOD.get(name, {}).get("config", {}).get("rules")
    rules = yaml.safe_load(text).get("rules", {})
    if own and (own["files"][0] not in rules["files"] or len(rules["files"]) != 2 or rules["interval"] != own["interval"]):
        fault(f"{name}: {own} came to {rules}")
    agent = os.environ.get("GEOPHONE_BIN")
    if agent:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            done = subprocess.run([agent, "config", "validate", file.name], capture_output=True, text=True)
            if done.returncode:
                fault(f"{name}: the agent refuses its configuration: {done.stderr.strip()}")


def least_privilege(name, objects):
    pod = objects["DaemonSet", "geophone"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    context = container["securityContext"]
    written = not context.get("readOnlyRootFilesystem") and "no security context" not in name
    if context.get("privileged") or context["capabilities"]["drop"] != ["ALL"] or written:
        fault(f"{name}: the container may more than it says")
    capabilities, processes = CAPABILITIES.get(name, DEFAULT)
    if set(context["capabilities"]["add"]) != capabilities or pod["hostPID"] != processes:
        fault(f"{name}: the container has {context['capabilities']['add']}, and hostPID {pod['hostPID']}")
    writable = [m["name"] for m in container["volumeMounts"] if not m.get("readOnly")]
    host = {v["name"] for v in pod["volumes"] if "hostPath" in v}
    if set(writable) & host - {"store"}:
        fault(f"{name}: {writable} of the host can be written")
    settings = yaml.safe_load(objects["ConfigMap", "geophone"]["data"]["geophone.yaml"]).get("kubernetes", {})
    asks = settings.get("enabled", True)
    peers = settings.get("peers") or any(item["name"] == "GEOPHONE_KUBERNETES__PEERS" for item in container["env"])
    rights = RIGHTS + (RIGHTS_OF_PEERS if peers else [])
    if pod["automountServiceAccountToken"] != asks:
        fault(f"{name}: a token that nobody uses, or none although the API is asked")
    role = objects.get(("ClusterRole", "geophone"))
    if role and (not asks or role["rules"] != rights):
        fault(f"{name}: the role may more, or less, than is asked for: {role['rules']}")
    if bool(role) != (asks and name != "roles of somebody else"):
        fault(f"{name}: a role that is not wanted, or none where one is")
    scc = objects.get(("SecurityContextConstraints", "geophone"))
    profile = context.get("seccompProfile", {"type": "RuntimeDefault"})
    if profile["type"] == "Unconfined" and name not in (*PLATFORMS, "no profile"):
        fault(f"{name}: all system calls are admitted")
    kinds = {"RuntimeDefault": "runtime/default", "Unconfined": "unconfined", "Localhost": f"localhost/{profile.get('localhostProfile')}"}
    if scc and scc["seccompProfiles"] != [kinds[profile["type"]]]:
        fault(f"{name}: the constraints admit other profiles than the container asks for: {scc['seccompProfiles']}")
    if scc and (scc["allowPrivilegedContainer"] or scc["allowedCapabilities"] != context["capabilities"]["add"]):
        fault(f"{name}: the constraints allow other capabilities than the container asks for")
    if scc and scc["allowHostPID"] != pod["hostPID"]:
        fault(f"{name}: the constraints let it see the node's processes, or do not, and it asks for the other")


def reaches(name, objects):
    """What the configuration names is what the policy lets the agent connect to."""
    policy = objects.get(("NetworkPolicy", "geophone"))
    if policy:
        ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
        if not {443, 6443} <= ports or not ports & {53, 5353} or not {"all": {4317, 9093, 80, 465}, "endpoints by env": {8443}}.get(name, set()) <= ports:
            fault(f"{name}: the policy lets out to {ports} only")


def boards(name, values, objects):
    """Seven, and of the kind of histogram that is scraped; with all that Helm remembers of a release they fit into its secret."""
    texts = [json.dumps(item) for key, item in objects.items() if "dashboard" in key[1]]
    wanted = values.get("dashboards", {})
    if len(texts) != (7 if wanted.get("create") else 0) or any("_bucket" in text for text in texts) != wanted.get("classic", False):
        fault(f"{name}: {len(texts)} dashboards, or others than were asked for")
    files = [base64.b64encode(path.read_bytes()).decode() for path in files_of_the_chart()]
    size = len(base64.b64encode(gzip.compress(json.dumps([files, list(objects.items())]).encode()))) if texts else 0
    if size > 900_000:
        fault(f"{name}: a release of {size} bytes; Helm keeps it in a secret, which may have 1 MiB")


def files_of_the_chart():
    for directory, _, names in os.walk(CHART, followlinks=True):
        yield from (pathlib.Path(directory) / name for name in names)


def scraped(name, values, objects):
    for kind in ("PodMonitor", "ServiceMonitor"):
        monitor = objects.get((kind, "geophone"))
        if monitor:
            spec = monitor["spec"]
            tls = spec.get("podMetricsEndpoints", spec.get("endpoints"))[0]["tlsConfig"]
            if len(tls["ca"]) != 1 or tls["serverName"] != "geophone.geophone.svc" or mutual(values) != ("cert" in tls):
                fault(f"{name}: {kind} has {tls}")
            given = spec.get("podMetricsEndpoints", spec.get("endpoints"))[0].get("authorization")
            if bool(given) != bearer(values):
                fault(f"{name}: {kind} sends {given}")
            named = [item["value"] for item in objects["DaemonSet", "geophone"]["spec"]["template"]["spec"]["containers"][0]["env"] if item["name"] == "GEOPHONE_HOST"]
            relabeled = spec.get("podMetricsEndpoints", spec.get("endpoints"))[0]["relabelings"][0].get("replacement", "$1")
            if named != [relabeled.replace("$1", "$(NODE_NAME)")]:
                fault(f"{name}: an agent calls itself {named}, {kind} {relabeled}")
            if spec.get("scrapeNativeHistograms") != (None if name == "older operator" else True):
                fault(f"{name}: {kind} scrapes native histograms: {spec.get('scrapeNativeHistograms')}")


def secrets(name, objects):
    """What the chart makes for the operator is what the pod mounts and what Prometheus is given, and both shake hands over it."""
    if not name.startswith("prometheus-operator"):
        return
    pod = objects["DaemonSet", "geophone"]["spec"]["template"]["spec"]
    mounted = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    if objects["Secret", mounted["token"]]["data"].keys() != {"token"}:
        fault(f"{name}: no token")
    monitor = objects["PodMonitor", "geophone"]["spec"]["podMetricsEndpoints"][0]
    if monitor["authorization"]["credentials"] != {"name": mounted["token"], "key": "token"}:
        fault(f"{name}: Prometheus has another token")
    if name.endswith("openshift"):
        annotations = objects["Service", "geophone"]["metadata"]["annotations"]
        if annotations["service.beta.openshift.io/serving-cert-secret-name"] != mounted["tls"]:
            fault(f"{name}: nobody makes {mounted['tls']}")
        return
    if monitor["tlsConfig"]["ca"]["secret"] != {"name": mounted["tls"], "key": "ca.crt"}:
        fault(f"{name}: Prometheus trusts somebody else")
    files = {key: base64.b64decode(text) for key, text in objects["Secret", mounted["tls"]]["data"].items()}
    with tempfile.TemporaryDirectory() as directory:
        paths = {key: pathlib.Path(directory) / key for key in files}
        for key, path in paths.items():
            path.write_bytes(files[key])
        client = ssl.create_default_context(cafile=paths["ca.crt"])
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(paths["tls.crt"], paths["tls.key"])
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=monitor["tlsConfig"]["serverName"]), server.wrap_bio(there, back, server_side=True)]
    for end in ends * 2:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            fault(f"{name}: Prometheus does not accept the certificate: {error}")
            return
    if not all(end.version() for end in ends):
        fault(f"{name}: the handshake does not end")


def kept():
    """The token that the chart made is the same after an upgrade, whatever its key is called then."""
    values = {"api": {"expose": True, "tls": {"secretName": "tls"}, "token": {"create": True, "key": "new"}}}
    for there in ({"new": "b2xk"}, {"old": "b2xk"}, {"new": "b2xk", "old": "b3RoZXI="}, {"old": "b2xk", "older": "b2xk"}, {}):
        data = render(values, token=json.dumps(there))[0]["Secret", "geophone-token"]["data"]
        # Of several that are all called otherwise none is taken: there is a new one.
        kept = there if "new" in there else {"new": "b2xk"} if len(there) == 1 else None
        new = base64.b64decode(data.get("new", ""))
        if kept and data != kept or not kept and (list(data) != ["new"] or len(new) < 32):
            fault(f"an upgrade makes {data} of the token {there}")


def tested(name, values, objects):
    """`helm test` asks the agent, and has all that it must show for that, but not the server's key."""
    pod = objects.get(("Pod", "geophone-test"))
    if not pod:
        return
    text = objects["ConfigMap", "geophone"]["data"]["geophone.yaml"]
    api = yaml.safe_load(text)["api"]
    tls = api.get("tls", {})
    needed = {tls.get(key) for key in ("cert_file", "client_cert_file", "client_key_file")} | {api.get("token_file")}
    asks = values.get("hostNetwork", True) and values.get("store", {}).get("kind") != "none" and (not mutual(values) or "client_cert_file" in tls)
    asking = [container for container in pod["spec"]["containers"] if container["args"][0] == "query"]
    if bool(asking) != asks or pod["spec"]["hostNetwork"] != asks:
        fault(f"{name}: helm test asks nobody, or whom it cannot ask")
    own = values.get("env", []) + values.get("extraVolumeMounts", [])
    for container in pod["spec"]["containers"]:
        if [part for part in own if part not in container.get("env", []) + container["volumeMounts"]]:
            fault(f"{name}: helm test judges other settings than the agent has")
    if not asking:
        return
    at = {mount["name"]: mount["mountPath"] for mount in asking[0]["volumeMounts"]}
    secrets = [volume for volume in pod["spec"]["volumes"] if "secret" in volume]
    keys = {"token": [{"path": "token"}]}
    shown = {f"{at[v['name']]}/{item['path']}" for v in secrets for item in v["secret"].get("items", keys.get(v["name"]))}
    if shown != needed - {None}:
        fault(f"{name}: helm test has {shown}, and needs {needed}")
    if secrets and pod["spec"]["securityContext"]["fsGroup"] != asking[0]["securityContext"]["runAsUser"]:
        fault(f"{name}: helm test cannot read its secrets")
    if any(volume["secret"]["defaultMode"] != 0o440 for volume in secrets):
        fault(f"{name}: everybody, or nobody, can read the secrets of helm test")


def confined(name, values, rendered):
    """AppArmor's profile is where the cluster's version looks for it, and nowhere else: a field that it does not know is refused."""
    wanted = values.get("appArmorProfile")
    for version, objects in rendered.items():
        pod = objects["DaemonSet", "geophone"]["spec"]["template"]
        field = pod["spec"]["containers"][0]["securityContext"].get("appArmorProfile")
        annotation = pod["metadata"]["annotations"].get("container.apparmor.security.beta.kubernetes.io/geophone")
        old = version in ("1.25", "1.29")
        if field != (None if old else wanted) or bool(annotation) != bool(old and wanted):
            fault(f"{name}: in {version} AppArmor's profile is {field}, {annotation}")


def refused():
    for values, words in BAD:
        try:
            render(values)
        except helm_python.HelmError as error:
            if words not in str(error):
                fault(f"{values}: refused, but not for {words!r}: {error}")
        else:
            fault(f"{values}: not refused")


def over(below, values):
    """As Helm lays a file over the one before."""
    both = [key for key in below.keys() & values.keys() if isinstance(below[key], dict) and isinstance(values[key], dict)]
    return {**below, **values, **{key: over(below[key], values[key]) for key in both}}


def platform(name):
    return yaml.safe_load((CHART / f"platforms/{name}.yaml").read_text())


def generated():
    """Path: text of the manifests that are made from the chart."""
    base = manifests({})
    files = {KUSTOMIZE / "base/geophone.yaml": dump(base.values())}
    for name in OVERLAYS:
        for key, item in manifests(platform(name)).items():
            if key not in base:
                short = {"SecurityContextConstraints": "scc"}.get(key[0], key[0].lower())
                files[KUSTOMIZE / f"overlays/{name}/{short}.yaml"] = dump([item])
    for name, (needs, values) in COMPONENTS.items():
        # Constraints are patched where an overlay has them.
        below = over(together(needs), {"openshift": {"scc": True}})
        for file, text in component(manifests(below), manifests(over(below, values))).items():
            files[KUSTOMIZE / f"components/{name}/{file}"] = text
    return files


def together(names):
    """Values of all these components, and of what they need."""
    values = {}
    for name in names:
        needs, own = COMPONENTS[name]
        values = over(over(values, together(needs)), own)
    return values


def with_components(names, below="base"):
    """What kustomize makes of the base, or an overlay, and these, in the order in which one needs the other."""
    wanted = [name for name in COMPONENTS if name in names or any(name in COMPONENTS[one][0] for one in names)]
    with tempfile.TemporaryDirectory() as directory:
        # Absolute paths are refused.
        at = os.path.relpath(KUSTOMIZE, os.path.realpath(directory))
        kustomization = {"resources": [f"{at}/{below}"], "components": [f"{at}/components/{name}" for name in wanted]}
        pathlib.Path(directory, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(directory)


def kustomize(directory):
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True)
    if done.returncode:
        fault(f"kubectl kustomize {directory}: {done.stderr.strip()}")
        return {}
    items = [item for item in yaml.safe_load_all(done.stdout) if item]
    return {(item["kind"], item["metadata"]["name"]): item for item in items}


def overlays():
    """What kustomize makes is what Helm makes of the same platform."""
    cases = {"base": ({}, kustomize(KUSTOMIZE / "base"))}
    cases |= {name: (platform(name), kustomize(KUSTOMIZE / f"overlays/{name}")) for name in OVERLAYS}
    for names in [*([name] for name in COMPONENTS), list(COMPONENTS)]:
        cases[" and ".join(names)] = (together(names), with_components(names))
    cases["stacks on openshift"] = (over(platform("openshift"), together(["stacks"])), with_components(["stacks"], "overlays/openshift"))
    for name, (values, built) in cases.items():
        namespace = built.pop(("Namespace", "geophone"), {})
        if namespace.get("metadata", {}).get("labels", {}).get("pod-security.kubernetes.io/enforce") != "privileged":
            fault(f"{name}: its namespace does not admit the pods")
        wanted = manifests(values)
        for key in sorted(built.keys() | wanted.keys()):
            if built.get(key) != wanted.get(key):
                fault(f"{name}: {key[0]}/{key[1]} is not what the chart makes of it")
    return f"{len(cases)} kustomizations"


def the_chart():
    lint()
    operator = platform("prometheus-operator")
    cases = {**GOOD, **{name: platform(name) for name in PLATFORMS}}
    cases |= {f"prometheus-operator on {name}": over(operator, platform(name)) for name in OVERLAYS}
    for name, values in cases.items():
        objects, notes = render(values)
        rendered = {version: render(values, version)[0] for version in VERSIONS}
        said(name, values, notes)
        schemas(name, rendered)
        configuration(name, objects)
        least_privilege(name, objects)
        reaches(name, objects)
        scraped(name, values, objects)
        secrets(name, objects)
        boards(name, values, objects)
        confined(name, values, rendered)
        tested(name, values, objects)
    refused()
    kept()
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            fault(f"{path}: is not what the chart makes; run {sys.argv[0]} --write")
    return f"{len(cases)} sets of values, {len(BAD)} refused"


def main():
    if sys.argv[1:2] == ["--crds"]:
        write_crds(sys.argv[2:])
        return 0
    if sys.argv[1:] == ["--write"]:
        for path, text in generated().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return 0
    parts = {"chart": the_chart, "kustomize": overlays}
    done = [parts[name]() for name in sys.argv[1:] or parts]
    for what in faults:
        print(what)
    print(f"{', '.join(done)}: {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
