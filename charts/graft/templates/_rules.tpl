{{- define "graft.rules" -}}
# The jobs themselves.
- apiGroups: [graft.dev]
  resources: [transferjobs]
  verbs: [list, watch]
# Their status; nothing else of them is ever written.
- apiGroups: [graft.dev]
  resources: [transferjobs/status]
  verbs: [patch]
# Children that block their owner's deletion need this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [graft.dev]
  resources: [transferjobs/finalizers]
  verbs: [update]
# The gangs. Server-side apply of a new object needs create and patch.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# The names of a gang's pods and their configuration.
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [create, patch, delete]
# Who may speak to a gang's pods.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch, delete]
# How the gangs are.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# What is told about a job; patch counts one that repeats.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "graft.rules.scrapes" -}}
# Whose token a scrape carries.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
# Whether they may read /metrics.
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end -}}

{{- define "graft.rules.trial" -}}
# The job of the test: made, looked at, and deleted.
- apiGroups: [graft.dev]
  resources: [transferjobs]
  verbs: [create, get, delete]
{{- end -}}

{{- define "graft.rules.stop" -}}
# The jobs whose gangs are stopped.
- apiGroups: [graft.dev]
  resources: [transferjobs]
  verbs: [list]
# That they are stopped, and go on with the next operator.
- apiGroups: [graft.dev]
  resources: [transferjobs/status]
  verbs: [patch]
# The gangs.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, delete]
# The names of a gang's pods and their configuration.
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [delete]
# Who spoke to a gang's pods.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [delete]
# Whether the gangs still run.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end -}}

{{- define "graft.rules.stop.operator" -}}
# Whether the operator still runs.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# The operator goes first, or it would start again what is stopped.
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
{{- end -}}
