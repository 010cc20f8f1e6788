{{/* Fails with a sentence where a value is missing that a schema cannot demand of all who use the chart. */}}
{{- define "muster.check" -}}
{{- if ne .Release.Namespace "muster-system" -}}
{{- fail (printf "the release's namespace is %q; Muster's processes live in muster-system: helm install muster ... --namespace muster-system" .Release.Namespace) -}}
{{- end -}}
{{- if .Values.processes -}}
{{- if not (or .Values.image.digest .Values.image.tag) -}}
{{- fail "image.digest (or image.tag) is needed: which build of muster runs here" -}}
{{- end -}}
{{- if not .Values.gateway.publicUrl -}}
{{- fail "gateway.publicUrl is empty; say at which https://HOST:PORT agents and users reach the gateway" -}}
{{- end -}}
{{- if and (eq .Values.gateway.service.type "ClusterIP") .Values.gateway.service.externalTrafficPolicy -}}
{{- fail "gateway.service.externalTrafficPolicy is for types LoadBalancer and NodePort; leave it empty with ClusterIP" -}}
{{- end -}}
{{- if not (and .Values.trainer.repository .Values.trainer.digest) -}}
{{- fail "trainer.repository and trainer.digest are needed: the image that trains, by digest (sha256:<64 hex>)" -}}
{{- end -}}
{{- if and .Values.store.url (not .Values.store.caConfigMap) -}}
{{- fail "store.caConfigMap is needed with store.url: a ConfigMap whose ca.crt says which authorities the bucket's certificate may come from" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "muster.labels" -}}
app.kubernetes.io/part-of: muster
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{- define "muster.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* What every pod of Muster has: the restricted profile, and its own ServiceAccount's token. */}}
{{- define "muster.pod" -}}
automountServiceAccountToken: true
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "muster.container" -}}
image: {{ include "muster.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "muster.env" -}}
{{- with .Values.log.filter }}
- {name: RUST_LOG, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "muster.storeEnv" -}}
{{- if .Values.store.caConfigMap }}
- {name: SSL_CERT_FILE, value: /etc/muster/ca/ca.crt}
{{- end }}
{{- end -}}

{{- define "muster.store" -}}
{{ .Values.store.url | default "/var/lib/muster/store/data" }}
{{- end -}}

{{- define "muster.storeMounts" -}}
{{- if not .Values.store.url }}
- {name: store, mountPath: /var/lib/muster/store}
{{- end }}
{{- if .Values.store.caConfigMap }}
- {name: ca, mountPath: /etc/muster/ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "muster.storeVolumes" -}}
{{- if not .Values.store.url }}
- name: store
  persistentVolumeClaim: {claimName: {{ .Values.store.volume.existingClaim | default "muster-store" | quote }}}
{{- end }}
{{- if .Values.store.caConfigMap }}
- name: ca
  configMap: {name: {{ .Values.store.caConfigMap | quote }}}
{{- end }}
{{- end -}}

{{- define "muster.envFrom" -}}
{{- with .Values.store.credentialsSecret }}
envFrom:
- secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end -}}

{{/* Volumes that one node at a time may have keep those who share them together: label and affinity for each such volume. */}}
{{- define "muster.oneNodeStore" -}}
{{- if and (not .Values.store.url) (has "ReadWriteOnce" .Values.store.volume.accessModes) -}}yes{{- end -}}
{{- end -}}
{{- define "muster.shares" -}}
muster.dev/store: shared
{{- end -}}
{{- define "muster.storeAffinity" -}}
{{- if include "muster.oneNodeStore" . }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector: {matchLabels: {app.kubernetes.io/part-of: muster, muster.dev/store: shared}}
{{- end }}
{{- end -}}
{{- define "muster.hubAffinity" -}}
{{- $state := has "ReadWriteOnce" .Values.hub.state.accessModes -}}
{{- $store := include "muster.oneNodeStore" . -}}
affinity:
{{- if or $state $store }}
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
    # One term only: of several the scheduler counts pods that match them all, and a gateway alone would then hold nobody. Who
    # shares the state shares the store.
    - topologyKey: kubernetes.io/hostname
      {{- if $store }}
      labelSelector: {matchLabels: {app.kubernetes.io/part-of: muster, muster.dev/store: shared}}
      {{- else }}
      labelSelector:
        matchLabels: {app.kubernetes.io/part-of: muster}
        matchExpressions:
        - {key: app.kubernetes.io/component, operator: In, values: [hub, auditor]}
      {{- end }}
{{- else }}
  # Hubs that may be anywhere are not all on one node.
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector: {matchLabels: {app.kubernetes.io/part-of: muster, app.kubernetes.io/component: hub}}
{{- end }}
{{- end -}}

{{/* Limits of strangers are per address, so the gateway should see whose it is. A load balancer finds the gateway's node by itself; who
dials a node's port may not. */}}
{{- define "muster.trafficPolicy" -}}
{{- .externalTrafficPolicy | default (eq .type "LoadBalancer" | ternary "Local" "") -}}
{{- end -}}

{{- define "muster.claim" -}}
{{- if not .volume.existingClaim }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  namespace: muster-system
  labels: {{- include "muster.labels" .component | nindent 4 }}
  # What it holds outlives the release: delete it by hand when nobody needs it any more.
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: {{ toJson .volume.accessModes }}
  {{- if kindIs "string" .volume.storageClassName }}
  storageClassName: {{ .volume.storageClassName | quote }}
  {{- end }}
  resources: {requests: {storage: {{ .volume.size }}}}
{{- end }}
{{- end -}}

{{- define "muster.probes" -}}
livenessProbe: {httpGet: {path: /healthz, port: metrics}, periodSeconds: 10, failureThreshold: 6}
readinessProbe: {httpGet: {path: /readyz, port: metrics}, periodSeconds: 2}
{{- end -}}
