{{/* The configuration: the values' keys over those of the platform, with a Lease of this release's own.
sprig's own merge passes over null. */}}
{{- define "slo-autoscaler.config" -}}
{{- if eq .Values.platform "knative-floor" }}
{{- fail "platform: knative-floor was removed; knative-class scales, and under Knative's own autoscaler the label tailbound.dev/mode: recommend decides and writes nothing" }}
{{- end -}}
{{- $config := .Files.Get (printf "files/%s/config.yaml" .Values.platform) | fromYaml -}}
{{- $_ := set $config.leader.lease "name" (include "slo-autoscaler.name" .) -}}
{{- include "slo-autoscaler.overlay" (list $config .Values.config) -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Lay the second mapping over the first, in place. */}}
{{- define "slo-autoscaler.overlay" -}}
{{- $below := index . 0 -}}
{{- range $key, $value := index . 1 -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $below $key)) -}}
{{- include "slo-autoscaler.overlay" (list (get $below $key) $value) -}}
{{- else -}}
{{- $_ := set $below $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "slo-autoscaler.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end -}}

{{/* What scrape jobs select by is the same for every release. */}}
{{- define "slo-autoscaler.selector" -}}
app.kubernetes.io/name: slo-autoscaler
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "slo-autoscaler.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "slo-autoscaler.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tailbound
{{- end -}}

{{- define "slo-autoscaler.account" -}}
{{ .Values.serviceAccount.name | default (include "slo-autoscaler.name" .) }}
{{- end -}}

{{- define "slo-autoscaler.subject" -}}
- kind: ServiceAccount
  name: {{ include "slo-autoscaler.account" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{- define "slo-autoscaler.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* The name ends in a hash of the content: a change rolls the Deployment, and nothing else does. */}}
{{- define "slo-autoscaler.configMap" -}}
{{ include "slo-autoscaler.name" . }}-config-{{ include "slo-autoscaler.config" . | sha256sum | trunc 10 }}
{{- end -}}

{{/* Annotations of an object of the hook before an uninstall; the argument is its weight. */}}
{{- define "slo-autoscaler.uninstall" -}}
annotations:
  helm.sh/hook: pre-delete
  helm.sh/hook-weight: {{ . | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end -}}
