{{/*
What the operator may do where clusters live: exactly what its code calls. Services, accounts, budgets and
Jobs have no delete, as they go with their owner; Events are only written.
*/}}
{{- define "kvcluster.rules" -}}
- apiGroups: [kvcluster.dev]
  resources: [kvclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [kvcluster.dev]
  resources: [kvsnapshots]
  verbs: [get, list, watch]
- apiGroups: [kvcluster.dev]
  resources: [kvclusters/status, kvsnapshots/status]
  verbs: [patch]
# To name them as owners that a foreground deletion waits for.
- apiGroups: [kvcluster.dev]
  resources: [kvclusters/finalizers, kvsnapshots/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch, delete]
# The certificate by which the operator connects to a cluster with TLS.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}
