"""What the chart's notes say, and of which values; and what else is to be read out of values."""

# What the notes say, and of which values.
NOTES = [
    ("geophone check", lambda values: True),
    ("geophone top", lambda values: not mutual(values) or "config" in values),
    ("set config.api.tls.client_cert_file", lambda values: mutual(values) and "config" not in values),
    ("certificates of clients", lambda values: mutual(values)),
    ("on 127.0.0.1:9779", lambda values: not exposed(values)),
    ("bearer token", lambda values: exposed(values) and bearer(values)),
    ("with TLS", lambda values: exposed(values)),
    ("No metrics leave", lambda values: not exposed(values) and not any(values.get("config", {}).get("export", {}).values()) and "GEOPHONE_EXPORT" not in str(values)),
    ("OpenTelemetry's names, which", lambda values: by_otlp_alone(values)),
    ("Without hostPID", lambda values: not values.get("hostPID", True)),
    ("Without hostFiles", lambda values: not sees_files(values)),
    ("helm test", lambda values: values.get("tests", {}).get("create", True)),
]


def exposed(values):
    return values.get("api", {}).get("expose", False)


def by_otlp_alone(values):
    export = values.get("config", {}).get("export", {})
    scraped = any(values.get(monitor, {}).get("create", False) for monitor in ("podMonitor", "serviceMonitor"))
    return "endpoint" in (export.get("otlp") or {}) and not export.get("remote_write") and not scraped


def mutual(values):
    return "clientCaKey" in values.get("api", {}).get("tls", {})


def bearer(values):
    return bool({"secretName", "create"} & values["api"].get("token", {}).keys())


def sees_files(values):
    stacks = values.get("config", {}).get("probes", {}).get("profile", {}).get("enabled", False)
    asks = values.get("kubernetes", {}).get("enabled", True)
    return values.get("hostFiles", False) or stacks or values.get("hostPID", True) and not asks
