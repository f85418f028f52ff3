{{- define "geophone.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "geophone.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "geophone.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "geophone.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "geophone.selectorLabels" -}}
app.kubernetes.io/name: {{ include "geophone.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "geophone.labels" -}}
{{ include "geophone.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "geophone.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "geophone.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "geophone.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* Who makes a secret may name it. */ -}}
{{- define "geophone.tlsSecret" -}}
{{- default (ternary (printf "%s-tls" (include "geophone.fullname" .)) "" (ne .Values.api.tls.create "")) .Values.api.tls.secretName }}
{{- end }}

{{- define "geophone.tokenSecret" -}}
{{- default (ternary (printf "%s-token" (include "geophone.fullname" .)) "" .Values.api.token.create) .Values.api.token.secretName }}
{{- end }}

{{- /* services or pods: peers are named after these, and the role has what that needs, whichever way it was asked for. */ -}}
{{- define "geophone.peers" -}}
{{- $peers := default .Values.kubernetes.peers (get (default dict .Values.config.kubernetes) "peers") }}
{{- if and .Values.kubernetes.enabled $peers }}{{ ternary "pods" "services" (eq (toString $peers) "pods") }}{{ end }}
{{- end }}

{{- /* Not empty: the shipped rules are evaluated on the node, over what it remembers. */ -}}
{{- define "geophone.rules" -}}
{{- if and .Values.rules.onNode (ne .Values.store.kind "none") }}yes{{ end }}
{{- end }}

{{- /* Not empty: the pod sees what the node's processes have open and mapped. For stacks, and for names of containers where no API
has them. */ -}}
{{- define "geophone.hostFiles" -}}
{{- $profile := default dict (get (default dict .Values.config.probes) "profile") }}
{{- if or .Values.hostFiles (eq (toString $profile.enabled) "true") (and .Values.hostPID (not .Values.kubernetes.enabled)) }}yes{{ end }}
{{- end }}

{{- /* What the settings need, as docs/security.md tells it, unless somebody has said it: a capability a line. */ -}}
{{- define "geophone.capabilities" -}}
{{- $probes := default dict .Values.config.probes }}
{{- $path := default dict $probes.path }}
{{- $on := dict }}
{{- range $probe := list "tunnel" "dns" "udp" "path" "profile" }}
{{- $_ := set $on $probe (toString (get (default dict (get $probes $probe)) "enabled")) }}
{{- end }}
{{- $routes := ne $on.path "false" }}
{{- $all := list "BPF" "PERFMON" }}
{{- if or (ne $on.tunnel "false") (eq $on.dns "true") (eq $on.udp "true") (include "geophone.peers" .) (and $routes (get (default dict $path.forwarded) "devices")) }}
{{- $all = append $all "NET_ADMIN" }}
{{- end }}
{{- if include "geophone.hostFiles" . }}
{{- $all = append $all "SYS_PTRACE" }}
{{- end }}
{{- if eq $on.profile "true" }}
{{- $all = append $all "DAC_READ_SEARCH" }}
{{- end }}
{{- $all = append $all "SYSLOG" }}
{{- if and $routes (get (default dict $path.active) "peers") }}
{{- $all = append $all "NET_RAW" }}
{{- end }}
{{- default $all .Values.capabilities | toYaml }}
{{- end }}

{{- /* The agent's configuration: what the values say, under what the chart must say. */ -}}
{{- define "geophone.config" -}}
{{- $api := dict "listen" (printf "127.0.0.1:%v" .Values.api.port) }}
{{- if .Values.api.expose }}
{{- $tls := dict "cert_file" "/etc/geophone/tls/tls.crt" "key_file" "/etc/geophone/tls/tls.key" }}
{{- with .Values.api.tls.clientCaKey }}
{{- $_ := set $tls "client_ca_file" (printf "/etc/geophone/tls/%s" .) }}
{{- end }}
{{- $listen := printf "%s:%v" .Values.api.listenAddress .Values.api.port }}
{{- $api = dict "listen" $listen "tls" $tls }}
{{- if include "geophone.tokenSecret" . }}
{{- $_ := set $api "token_file" (printf "/etc/geophone/token/%s" .Values.api.token.key) }}
{{- end }}
{{- end }}
{{- $store := dict "kind" (get (dict "hostPath" "auto" "memory" "memory" "none" "none") .Values.store.kind) }}
{{- $forced := dict "api" $api "store" $store }}
{{- if not .Values.kubernetes.enabled }}
{{- $_ := set $forced "kubernetes" (dict "enabled" false) }}
{{- end }}
{{- $rules := dict }}
{{- if include "geophone.rules" . }}
{{- $_ := set $rules "files" (append (default list (get (default dict .Values.config.rules) "files")) "/etc/geophone/rules") }}
{{- end }}
{{- with .Values.rules.alertmanagers }}
{{- $_ := set $rules "alertmanagers" (concat (default list (get (default dict $.Values.config.rules) "alertmanagers")) .) }}
{{- end }}
{{- if $rules }}
{{- $_ := set $forced "rules" $rules }}
{{- end }}
{{- mergeOverwrite (deepCopy .Values.config) $forced | toYaml }}
{{- end }}

{{- /* Where metrics are sent: a URL a line, as far as the chart knows it. */ -}}
{{- define "geophone.exports" -}}
{{- $export := default dict .Values.config.export }}
{{- $urls := list (get (default dict $export.otlp) "endpoint") (get (default dict $export.remote_write) "url") }}
{{- range .Values.env }}
{{- if has .name (list "GEOPHONE_EXPORT__OTLP__ENDPOINT" "GEOPHONE_EXPORT__REMOTE_WRITE__URL") }}
{{- $urls = append $urls (ternary "" .value (contains "$(" (toString .value))) }}
{{- end }}
{{- end }}
{{- range compact $urls }}{{ . }}
{{ end }}
{{- end }}

{{- /* Seconds of a duration as Prometheus writes it. */ -}}
{{- define "geophone.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1 "m" 60 "h" 3600 "d" 86400 "w" 604800 "y" 31536000 }}
{{- $all := 0.0 }}
{{- range regexFindAll "[0-9]+(ms|[smhdwy])" . -1 }}
{{- $all = addf $all (mulf (regexFind "^[0-9]+" . | float64) (get $units (regexFind "[a-z]+$" .) | float64)) }}
{{- end }}
{{- $all }}
{{- end }}

{{- /* Mounts of extraVolumes: those of the chart's own volumes are for the DaemonSet. */ -}}
{{- define "geophone.ownMounts" -}}
{{- $names := list }}
{{- range .Values.extraVolumes }}{{ $names = append $names .name }}{{ end }}
{{- range .Values.extraVolumeMounts }}
{{- if has .name $names }}
{{ list . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Settings by the environment, the same for the agent and for who tests it. */ -}}
{{- define "geophone.env" -}}
{{- if .Values.kubernetes.peers }}
- name: GEOPHONE_KUBERNETES__PEERS
  value: {{ .Values.kubernetes.peers | quote }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Ports that the agent connects to, as far as the chart knows them: the API server's, and of exporters and Alertmanagers. */ -}}
{{- define "geophone.egressPorts" -}}
{{- $ports := list }}
{{- if .Values.kubernetes.enabled }}
{{- $ports = list 443 6443 }}
{{- end }}
{{- $urls := splitList "\n" (include "geophone.exports" .) }}
{{- $urls = concat $urls .Values.rules.alertmanagers (default list (get (default dict .Values.config.rules) "alertmanagers")) }}
{{- range compact $urls }}
{{- $url := urlParse . }}
{{- $given := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
{{- $ports = append $ports (int (default (ternary 443 80 (eq $url.scheme "https")) $given)) }}
{{- end }}
{{- range uniq $ports }}
- port: {{ . }}
  protocol: TCP
{{- end }}
{{- end }}

{{- /* Kubernetes before 1.30 has no field for AppArmor's profile; after, nothing. */ -}}
{{- define "geophone.appArmorAnnotation" -}}
{{- if and .Values.appArmorProfile (semverCompare "<1.30-0" .Capabilities.KubeVersion.Version) }}
{{- $profile := .Values.appArmorProfile }}
{{- get (dict "RuntimeDefault" "runtime/default" "Unconfined" "unconfined" "Localhost" (printf "localhost/%s" $profile.localhostProfile)) $profile.type }}
{{- end }}
{{- end }}

{{- define "geophone.probe" -}}
{{- $root := index . 0 }}{{ $path := index . 1 }}
{{- if and $root.Values.api.expose $root.Values.api.tls.clientCaKey }}
tcpSocket:
  port: api
{{- else }}
httpGet:
  path: {{ $path }}
  port: api
{{- if $root.Values.api.expose }}
  scheme: HTTPS
{{- else }}
  host: 127.0.0.1
{{- end }}
{{- end }}
{{- end }}

{{- /* What cannot be meant. */ -}}
{{- define "geophone.check" -}}
{{- if and .Values.api.expose (or (not (include "geophone.tlsSecret" .)) (not (or (include "geophone.tokenSecret" .) .Values.api.tls.clientCaKey))) }}
{{- fail "api.expose: other machines can reach it; set api.tls.secretName, and api.token.secretName or api.tls.clientCaKey; or api.tls.create and api.token.create" }}
{{- end }}
{{- if and (eq .Values.api.tls.create "cert-manager") (not .Values.api.tls.issuerRef.name) }}
{{- fail "api.tls.create: cert-manager: set api.tls.issuerRef.name" }}
{{- end }}
{{- if and (eq .Values.api.tls.create "self-signed") .Values.api.tls.clientCaKey }}
{{- fail "api.tls.clientCaKey: the chart makes no certificates for clients; make the secret yourself, and set api.tls.secretName" }}
{{- end }}
{{- if and (not .Values.api.expose) (not .Values.hostNetwork) }}
{{- fail "hostNetwork: false: the kubelet cannot reach 127.0.0.1 of the pod; set api.expose" }}
{{- end }}
{{- if and (not .Values.api.expose) (or .Values.podMonitor.create .Values.serviceMonitor.create) }}
{{- fail "podMonitor, serviceMonitor: Prometheus cannot reach 127.0.0.1 of the nodes; set api.expose, or send by config.export" }}
{{- end }}
{{- if and .Values.podMonitor.create .Values.serviceMonitor.create }}
{{- fail "podMonitor, serviceMonitor: both would scrape the same series; take one" }}
{{- end }}
{{- range $section := list "api" "export" "kubernetes" "probes" "rules" "store" }}
{{- if and (hasKey $.Values.config $section) (not (kindIs "map" (get $.Values.config $section))) }}
{{- fail (printf "config.%s: has no settings; give it some, or leave it out" $section) }}
{{- end }}
{{- end }}
{{- $tls := default dict (get (default dict .Values.config.api) "tls") }}
{{- range $key := keys $tls }}
{{- if not (has $key (list "client_cert_file" "client_key_file")) }}
{{- fail (printf "config.api.tls.%s: the chart sets it, from the values of api" $key) }}
{{- end }}
{{- end }}
{{- if and $tls (not .Values.api.tls.clientCaKey) }}
{{- fail "config.api.tls: nobody asks the commands for a certificate; set api.tls.clientCaKey" }}
{{- end }}
{{- range $path := list "api.listen" "api.token_file" "store.kind" }}
{{- $parts := splitList "." $path }}
{{- if hasKey (default dict (get $.Values.config (first $parts))) (last $parts) }}
{{- fail (printf "config.%s: the chart sets it, from the values of %s" $path (first $parts)) }}
{{- end }}
{{- end }}
{{- $kubernetes := default dict .Values.config.kubernetes }}
{{- if and (hasKey $kubernetes "enabled") (ne $kubernetes.enabled .Values.kubernetes.enabled) }}
{{- fail "config.kubernetes.enabled: role and token come with kubernetes.enabled, which says otherwise; set that" }}
{{- end }}
{{- $same := eq (toString $kubernetes.peers | replace "true" "services") (toString .Values.kubernetes.peers | replace "true" "services") }}
{{- if and (hasKey $kubernetes "peers") .Values.kubernetes.peers (not $same) }}
{{- fail "config.kubernetes.peers: kubernetes.peers says otherwise; set that" }}
{{- end }}
{{- if and (not .Values.kubernetes.enabled) (or .Values.kubernetes.peers $kubernetes.peers) }}
{{- fail "kubernetes.peers: services come from the API; set kubernetes.enabled" }}
{{- end }}
{{- $given := or .Values.openshift.scc (and .Values.kubernetes.enabled .Values.kubernetes.rbac) }}
{{- if and $given (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
{{- fail "serviceAccount.create: false: every pod of the namespace would have the role, and the constraints of openshift.scc; set serviceAccount.name, or kubernetes.rbac: false and no openshift.scc" }}
{{- end }}
{{- range $name := list "commonLabels" "podLabels" }}
{{- range $label := list "app.kubernetes.io/name" "app.kubernetes.io/instance" }}
{{- if hasKey (default dict (get $.Values $name)) $label }}
{{- fail (printf "%s: the chart's selectors look for %s as it sets it; take another label" $name $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.topologyFromLabels (or .Values.config.region .Values.config.zone) }}
{{- fail "topologyFromLabels: it would take the place of config.region and config.zone, also where there are no labels; set one of both" }}
{{- end }}
{{- if and .Values.api.expose (regexMatch "^(127[.]|localhost$|[[]?::1[]]?$)" .Values.api.listenAddress) }}
{{- fail "api.listenAddress: the kubelet and who scrapes ask at the pod's address; leave it out, or api.expose" }}
{{- end }}
{{- range $name := list "podMonitor" "serviceMonitor" }}
{{- $monitor := get $.Values $name }}
{{- $interval := include "geophone.seconds" $monitor.interval | float64 }}
{{- if and $monitor.create (gt (include "geophone.seconds" $monitor.scrapeTimeout | float64) $interval) }}
{{- fail (printf "%s.scrapeTimeout: %s is longer than the interval, %s" $name $monitor.scrapeTimeout $monitor.interval) }}
{{- end }}
{{- if and $monitor.create $.Values.prometheusRule.create (gt $interval 30.0) }}
{{- fail (printf "%s.interval: health is made of the last minute, and needs two scrapes of it; set 30s at most, or no prometheusRule" $name) }}
{{- end }}
{{- if and $monitor.create $.Values.api.tls.clientCaKey (not (and $monitor.tlsConfig.cert $monitor.tlsConfig.keySecret)) }}
{{- fail (printf "%s: with api.tls.clientCaKey Prometheus needs a certificate too; set %s.tlsConfig.cert and keySecret" $name $name) }}
{{- end }}
{{- end }}
{{- if and .Values.priorityClass.create (or (not .Values.priorityClass.name) (hasPrefix "system-" .Values.priorityClass.name)) }}
{{- fail "priorityClass.create: names that begin with system- are Kubernetes' own; set priorityClass.name" }}
{{- end }}
{{- if and .Values.serviceMonitor.create (not .Values.service.create) }}
{{- fail "serviceMonitor: there is no service; set service.create, or take podMonitor" }}
{{- end }}
{{- $alertmanagers := or .Values.rules.alertmanagers (get (default dict .Values.config.rules) "alertmanagers") }}
{{- if and $alertmanagers (eq .Values.store.kind "none") }}
{{- fail "rules.alertmanagers: with store.kind: none nothing is evaluated that could be sent" }}
{{- end }}
{{- $profile := default dict (get (default dict .Values.config.probes) "profile") }}
{{- $stacks := eq (toString $profile.enabled) "true" }}
{{- if and (not .Values.hostPID) $stacks }}
{{- fail "hostPID: false: stacks are of the node's processes; leave hostPID out, or config.probes.profile" }}
{{- end }}
{{- if and (not .Values.hostPID) .Values.hostFiles }}
{{- fail "hostFiles: they are those of the node's processes; leave hostPID: false out" }}
{{- end }}
{{- if and $stacks .Values.capabilities (not (and (has "SYS_PTRACE" .Values.capabilities) (has "DAC_READ_SEARCH" .Values.capabilities))) }}
{{- fail "capabilities: stacks of config.probes.profile have no names without SYS_PTRACE and DAC_READ_SEARCH; add them, or leave capabilities out" }}
{{- end }}
{{- $tunnel := default dict (get (default dict .Values.config.probes) "tunnel") }}
{{- if and $tunnel.namespaces (not (and .Values.hostPID (has "SYS_ADMIN" .Values.capabilities))) }}
{{- fail "config.probes.tunnel.namespaces: entering them takes hostPID, and a list of capabilities with SYS_ADMIN, SYS_PTRACE and DAC_READ_SEARCH" }}
{{- end }}
{{- range .Values.env }}
{{- if regexMatch "^GEOPHONE_(API__(LISTEN|TOKEN_FILE|TLS__.*)|STORE__KIND|KUBERNETES__(ENABLED|PEERS))$" .name }}
{{- fail (printf "env %s: the chart sets it, from the values of %s" .name (regexFind "API|STORE|KUBERNETES" .name | lower)) }}
{{- end }}
{{- end }}
{{- if not .Values.capabilities }}
{{- range .Values.env }}
{{- if regexMatch "^GEOPHONE_PROBES__(PROFILE|DNS|UDP|PATH|TUNNEL)__" .name }}
{{- fail (printf "env %s: the chart gives capabilities by config; set it there, or capabilities too" .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.securityContext (not .Values.securityContext.allowPrivilegeEscalation) (has "SYS_ADMIN" .Values.capabilities) }}
{{- fail "capabilities: SYS_ADMIN needs securityContext.allowPrivilegeEscalation: true" }}
{{- end }}
{{- end }}
