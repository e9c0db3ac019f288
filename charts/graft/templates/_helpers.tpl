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

{{/* The port speaks TLS or not; tokens are asked for over TLS only. */}}
{{- define "graft.scheme" -}}
{{- if and .Values.metrics.authorize (not .Values.metrics.tlsSecret) }}{{ fail "metrics.authorize needs metrics.tlsSecret: a token must not be seen" }}{{ end -}}
{{- ternary "HTTPS" "HTTP" (ne .Values.metrics.tlsSecret "") -}}
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

{{/* Metadata of what exists for a hook alone: takes the context, the hook and its weight. */}}
{{- define "graft.hook" -}}
labels:
  app.kubernetes.io/name: graft-{{ index . 1 }}
  app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
  app.kubernetes.io/part-of: graft
annotations:
  helm.sh/hook: {{ index . 1 }}
  helm.sh/hook-weight: {{ index . 2 | quote }}
  # What a hook that failed leaves can be read until the next.
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "graft.hook.pod" -}}
restartPolicy: Never
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "graft.hook.container" -}}
resources:
  requests:
    cpu: 50m
    memory: 128Mi
  limits:
    memory: 1Gi
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "graft.test.job" -}}
apiVersion: graft.dev/v1alpha1
kind: TransferJob
metadata:
  generateName: {{ .name }}-
  namespace: {{ .namespace }}
spec:
  image: {{ .image }}
  backbone:
    architecture: mobilenet_v1_025
    weights: {uri: "file:///trial/weights/fresh-mobilenet_v1_025.safetensors"}
    preprocessing: {size: 32, fit: stretch}
  data:
    train: {uri: "file:///trial/phantom", manifest: manifest.csv}
    columns: {patient: patient, split: split}
  fineTune: {epochs: 1}
  workers: {resources: {{ toJson .resources }}}
  output: {uri: "file:///trial/model"}
  volumes: {{ toJson .volumes }}
  volumeMounts: {{ toJson .mounts }}
{{- end -}}
