{{- define "keyward.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Labels of everything. Call with (list . "component"). */}}
{{- define "keyward.labels" -}}
{{- $root := index . 0 -}}
{{ include "keyward.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- define "keyward.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: keyward
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The node plugin's configuration: what the values say elsewhere, under what driver.config says. */}}
{{- define "keyward.driver.config" -}}
{{- $config := dict -}}
{{- with .Values.driver.adminPort }}{{ $_ := set $config "admin" (dict "listen" (printf "0.0.0.0:%d" (int .))) }}{{ end -}}
{{- if .Values.extraRoots }}{{ $_ := set $config "tls" (dict "extraRootsFile" "/etc/keyward/ca.pem") }}{{ end -}}
{{- if .Values.driver.hostPID }}{{ $_ := set $config "grpc" (dict "hostPid" true) }}{{ end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.driver.config)) -}}
{{- end -}}

{{/* "true" where kubelet puts tokens into secrets. */}}
{{- define "keyward.driver.tokensInSecrets" -}}
{{- $said := .Values.driver.tokensInSecrets -}}
{{- if kindIs "bool" $said -}}
{{- if $said -}}true{{- end -}}
{{- else if semverCompare ">=1.35.0-0" .Capabilities.KubeVersion.Version -}}true
{{- end -}}
{{- end -}}
