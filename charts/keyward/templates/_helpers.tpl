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
{{- with .Values.driver.startupTaint }}{{ if .enabled }}{{ $_ := set $config "startupTaint" (dict "key" .key) }}{{ end }}{{ end -}}
{{- $_ := set $config "limits" (dict "bytesPerNode" (mul 2097152 (int64 .Values.driver.payloadMiB))) -}}
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

{{/* "true" where the injector runs: the webhook, not the policy. */}}
{{- define "keyward.injector.webhook" -}}
{{- if and .Values.injector.enabled (eq .Values.injector.mode "webhook") }}true{{ end -}}
{{- end -}}

{{/* "true" where cert-manager makes the serving certificate. */}}
{{- define "keyward.injector.certManager" -}}
{{- if eq .Values.injector.certificates.mode "certManager" }}true{{ end -}}
{{- end -}}

{{/* The Secret that the injector keeps: the webhook's path, and the certificate where that is its own. cert-manager has
     one of its own for the certificate. */}}
{{- define "keyward.injector.secret" -}}
{{- if include "keyward.injector.certManager" . }}keyward-injector-path{{ else }}keyward-injector-tls{{ end -}}
{{- end -}}

{{/* "true" where the API server knows match conditions, without which an annotation cannot opt in. */}}
{{- define "keyward.injector.byAnnotation" -}}
{{- if and .Values.injector.byAnnotation (semverCompare ">=1.28.0-0" .Capabilities.KubeVersion.Version) }}true{{ end -}}
{{- end -}}

{{/* The namespaces that are never touched: a cluster must be able to start what Keyward itself needs. */}}
{{- define "keyward.injector.namespaceSelector" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: {{ prepend .Values.injector.excludedNamespaces .Release.Namespace | uniq | sortAlpha | toJson }}
  {{- with .Values.injector.namespaceSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What all entries of the webhook configuration have in common. There is neither caBundle nor path here: the injector
     keeps both (cert-manager the first, where it makes the certificate), and an upgrade leaves them. The path is what
     tells the API server apart from everybody else, so that it must not stand in a chart. */}}
{{- define "keyward.injector.hook" -}}
clientConfig:
  service: {namespace: {{ .Release.Namespace }}, name: keyward-injector, port: 443}
admissionReviewVersions: [v1]
rules:
  - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE], scope: Namespaced}
namespaceSelector:
  {{- include "keyward.injector.namespaceSelector" . | nindent 2 }}
failurePolicy: Fail
matchPolicy: Equivalent
# What another webhook adds later is looked at again.
reinvocationPolicy: IfNeeded
sideEffects: None
timeoutSeconds: {{ int .Values.injector.timeoutSeconds }}
{{- end -}}

{{/* The injector's configuration: what the values say elsewhere, under what injector.config says. */}}
{{- define "keyward.injector.config" -}}
{{- $config := dict
  "listen" (printf "0.0.0.0:%d" (int .Values.injector.port))
  "via" .Values.injector.via
  "image" (include "keyward.image" .)
  "imagePullPolicy" .Values.image.pullPolicy
  "driverName" .Values.driver.name -}}
{{- with .Values.injector.adminPort }}{{ $_ := set $config "admin" (dict "listen" (printf "0.0.0.0:%d" (int .))) }}{{ end -}}
{{- if .Values.extraRoots }}{{ $_ := set $config "tls" (dict "extraRootsFile" "/etc/keyward/ca.pem") }}{{ end -}}
{{- $_ := set $config "excludedNamespaces" (prepend .Values.injector.excludedNamespaces .Release.Namespace | uniq | sortAlpha) -}}
{{- $certificates := dict "namespace" .Release.Namespace "secret" (include "keyward.injector.secret" .)
  "webhook" "keyward-injector" "lease" "keyward-injector" -}}
{{- if include "keyward.injector.certManager" . -}}
{{- $_ := merge $certificates (dict "mode" "files" "directory" "/etc/keyward-tls") -}}
{{- else -}}
{{- $_ := merge $certificates (dict "mode" "own" "service" "keyward-injector") -}}
{{- end -}}
{{- $_ := set $config "certificates" $certificates -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.injector.config)) -}}
{{- end -}}

{{/* What all containers of `helm test` have in common. */}}
{{- define "keyward.test.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {cpu: 500m, memory: 64Mi}
{{- end -}}

{{/* Where a policy mounts when a pod does not say. */}}
{{- define "keyward.policy.mountPath" -}}
{{- .Values.injector.config.mountPath | default "/var/run/keyward" -}}
{{- end -}}

{{/* Which requests the policies look at. */}}
{{- define "keyward.policy.match" -}}
resourceRules:
  - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE], scope: Namespaced}
namespaceSelector:
  {{- include "keyward.injector.namespaceSelector" . | nindent 2 }}
{{- if not .Values.injector.byAnnotation }}
objectSelector:
  matchLabels: {keyward.dev/inject: "true"}
{{- end }}
{{- end -}}

{{/* The label, or where a pod has no such label the annotation. has() comes first: a pod without either is no error. */}}
{{- define "keyward.policy.optedIn" -}}
- name: opted-in
  expression: >-
    has(object.metadata.labels) && "keyward.dev/inject" in object.metadata.labels
    ? object.metadata.labels["keyward.dev/inject"] == "true"
    : has(object.metadata.annotations) && "keyward.dev/inject" in object.metadata.annotations &&
    object.metadata.annotations["keyward.dev/inject"] == "true"
{{- end -}}

{{/* What both policies read of a pod. */}}
{{- define "keyward.policy.variables" -}}
- name: annotations
  expression: 'has(object.metadata.annotations) ? object.metadata.annotations : {}'
- name: names
  expression: >-
    variables.annotations.map(key, key)
      .filter(key, key.startsWith("keyward.dev/secret-") && key != "keyward.dev/secret-")
      .map(key, key.substring(19)).sort()
- name: containers
  expression: >-
    variables.annotations[?"keyward.dev/containers"].orValue("").split(",").map(name, name.trim()).filter(name, name != "")
# Without slashes at its end.
- name: mountPath
  expression: >-
    variables.annotations[?"keyward.dev/mount-path"].orValue({{ include "keyward.policy.mountPath" . | quote }}).find("^.*[^/]")
{{- end -}}
