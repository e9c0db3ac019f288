{{/* The name of the operator's objects. */}}
{{- define "graft.name" -}}
{{- printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects the operator's pod; it never changes between versions. */}}
{{- define "graft.selector" -}}
app.kubernetes.io/name: graft-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "graft.labels" -}}
{{ include "graft.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: graft
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image by digest, else by tag, else by the app's version. */}}
{{- define "graft.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .version }}
{{- end -}}
{{- end -}}

{{- define "graft.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "graft.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "graft.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary (include "graft.name" .) "" .Values.priorityClass.create) -}}
{{- end -}}

{{/* The policy is cluster-wide: its name has the namespace, so that two releases can live side by side. */}}
{{- define "graft.admission" -}}
{{- printf "%s-%s-transferjobs" .Release.Namespace .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
