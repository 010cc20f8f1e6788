{{/* Fails with a sentence where a value is missing that a schema cannot demand of all who use the chart. */}}
{{- define "agent.check" -}}
{{- if ne .Release.Namespace "muster-lent" -}}
{{- fail (printf "the release's namespace is %q; what is lent lives in muster-lent: helm install muster-agent ... --namespace muster-lent" .Release.Namespace) -}}
{{- end -}}
{{- if not (or .Values.image.digest .Values.image.tag) -}}
{{- fail "image.digest (or image.tag) is needed: which build of muster runs here" -}}
{{- end -}}
{{- if not .Values.existingPolicyConfigMap -}}
{{- if not .Values.policy.images -}}
{{- fail "policy.images is empty; name the trainers' images that may run here, NAME@sha256:<64 hex> each" -}}
{{- end -}}
{{- if not .Values.policy.offer -}}
{{- fail "policy.offer is empty; say how many workers are lent at most: {workers: N}" -}}
{{- end -}}
{{- if and .Values.policy.directStore (not .Values.caConfigMap) -}}
{{- fail "caConfigMap is needed with policy.directStore: a ConfigMap whose ca.crt says which authorities the bucket's certificate may come from" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agent.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}
