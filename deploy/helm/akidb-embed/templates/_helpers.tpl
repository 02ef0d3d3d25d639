{{/* What the release is called. */}}
{{- define "akidb.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels of everything. */}}
{{- define "akidb.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "akidb.selector" . }}
{{- end }}

{{/* Labels that pods are found by, which may never change. */}}
{{- define "akidb.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* An image, by digest if there is one. Takes a list: the image of all, and what is different here. */}}
{{- define "akidb.image" -}}
{{- $image := dict }}
{{- range . }}
{{- $image = mergeOverwrite $image (deepCopy .) }}
{{- /* Another image or tag without a digest is not that of the digest. */}}
{{- if and (or .tag .repository) (not .digest) }}{{ $_ := set $image "digest" "" }}{{ end }}
{{- end }}
{{- if $image.digest }}{{ printf "%s@%s" $image.repository $image.digest }}{{ else }}{{ printf "%s:%s" $image.repository $image.tag }}{{ end }}
{{- end }}

{{- define "akidb.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "akidb.name" .) }}
{{- end }}

{{/* No root, no rights, nothing written to but what is mounted. */}}
{{- define "akidb.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "akidb.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities: {drop: [ALL]}
{{- end }}

{{/* The connection of a role, as `embed` reads it. Takes a list: everything, and the role. */}}
{{- define "akidb.natsEnv" -}}
{{- $all := index . 0 }}{{ $role := index . 1 }}
- {name: NATS_URL, value: {{ $all.Values.nats.url | quote }}}
{{- with get $all.Values.nats.inboxPrefix $role }}
- {name: NATS_INBOX_PREFIX, value: {{ . | quote }}}
{{- end }}
{{- if get $all.Values.nats.credentials $role }}
- {name: NATS_CREDS, value: /etc/akidb/nats/user.creds}
{{- end }}
{{- if $all.Values.nats.tls.caSecret }}
- {name: NATS_CA, value: /etc/akidb/ca/ca.crt}
{{- end }}
{{- if $all.Values.nats.tls.clientSecret }}
- {name: NATS_CERT, value: /etc/akidb/tls/tls.crt}
- {name: NATS_KEY, value: /etc/akidb/tls/tls.key}
{{- end }}
{{- end }}

{{- define "akidb.natsMounts" -}}
{{- $all := index . 0 }}{{ $role := index . 1 }}
{{- if get $all.Values.nats.credentials $role }}
- {name: nats-credentials, mountPath: /etc/akidb/nats, readOnly: true}
{{- end }}
{{- if $all.Values.nats.tls.caSecret }}
- {name: nats-ca, mountPath: /etc/akidb/ca, readOnly: true}
{{- end }}
{{- if $all.Values.nats.tls.clientSecret }}
- {name: nats-tls, mountPath: /etc/akidb/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "akidb.natsVolumes" -}}
{{- $all := index . 0 }}{{ $role := index . 1 }}
{{- with get $all.Values.nats.credentials $role }}
- {name: nats-credentials, secret: {secretName: {{ . | quote }}, defaultMode: 0440}}
{{- end }}
{{- with $all.Values.nats.tls.caSecret }}
- {name: nats-ca, secret: {secretName: {{ . | quote }}}}
{{- end }}
{{- with $all.Values.nats.tls.clientSecret }}
- {name: nats-tls, secret: {secretName: {{ . | quote }}, defaultMode: 0440}}
{{- end }}
{{- end }}

{{/* Where the models are. */}}
{{- define "akidb.registryEnvFrom" -}}
{{- with .Values.registry.secret }}
envFrom:
  - secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "akidb.registryMounts" -}}
{{- if .Values.registry.claim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end }}

{{- define "akidb.registryVolumes" -}}
{{- with .Values.registry.claim }}
- {name: models, persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: true}}
{{- end }}
{{- end }}

{{/* A group with the defaults of all, as JSON. Takes a list: everything, and the group. */}}
{{- define "akidb.group" -}}
{{- mergeOverwrite (deepCopy (index . 0).Values.defaults) (deepCopy (index . 1)) | toJson }}
{{- end }}

{{/* worker.toml of a group. Takes the group. */}}
{{- define "akidb.workerConfig" -}}
{{- with .config }}{{ . | trim }}

{{ end }}
{{- range $variant := .variants }}
[[variant]]
model = {{ .model | toJson }}
{{- range $key := list "name" "version" "precision" "default" "pinned" "providers" "strict" }}
{{- if hasKey $variant $key }}
{{ $key }} = {{ get $variant $key | toJson }}
{{- end }}
{{- end }}
{{- with .instances }}
instances = {{ int . }}
{{- end }}
{{ end }}
{{- end }}

{{/* What a variant is called in subjects, streams and consumers: its name, or its precision. Takes the variant. */}}
{{- define "akidb.variantName" -}}
{{ .name | default .precision | required "groups: a variant needs a name" }}
{{- end }}

{{/* A model's slug, as the programs make it of a name. */}}
{{- define "akidb.slug" -}}
{{ regexReplaceAll "[^a-z0-9]+" (lower .) "-" | trimAll "-" }}
{{- end }}
