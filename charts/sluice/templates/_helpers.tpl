{{/* The beginning of a name that ends as a name may. Call with (list $name $length). */}}
{{- define "sluice.beginning" -}}
{{- regexReplaceAll "[-.]+$" (trunc (index . 1) (index . 0)) "" -}}
{{- end -}}

{{/* The beginning of every name; 38 characters leave room for "-operator-" and more. That of a Service or a pipeline begins
     with a letter, and that of a release need not. */}}
{{- define "sluice.fullname" -}}
{{- $override := default .Chart.Name .Values.nameOverride -}}
{{- $name := printf "%s-%s" .Release.Name $override -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if contains $override .Release.Name -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- $name = printf "s-%s" $name -}}
{{- end -}}
{{- include "sluice.beginning" (list $name 38) -}}
{{- end -}}

{{- define "sluice.operatorName" -}}
{{ include "sluice.fullname" . }}-operator
{{- end -}}

{{/* Names of its pods, for alerts: another release in the namespace has an operator of its own. */}}
{{- define "sluice.operatorPods" -}}
{{ include "sluice.operatorName" . }}-[a-z0-9]+-[a-z0-9]+
{{- end -}}

{{/* Cluster-wide objects carry the namespace as well: releases of one name in two namespaces get along. */}}
{{- define "sluice.clusterName" -}}
{{ .Release.Namespace }}:{{ include "sluice.operatorName" . }}
{{- end -}}

{{- define "sluice.demoName" -}}
{{ include "sluice.fullname" . }}-demo
{{- end -}}

{{- define "sluice.serviceAccountName" -}}
{{ default (include "sluice.operatorName" .) .Values.operator.serviceAccount.name }}
{{- end -}}

{{/* A label's value, and the end of the Lease's name: at most 63 characters, a DNS subdomain. */}}
{{- define "sluice.installation" -}}
{{- $name := default (printf "%s.%s" .Release.Namespace .Release.Name) .Values.installation -}}
{{- if gt (len $name) 63 -}}
{{- printf "%s-%s" (include "sluice.beginning" (list $name 54)) ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* Where the pipeline of `helm test` goes. */}}
{{- define "sluice.pipelineNamespace" -}}
{{ if .Values.namespaces }}{{ first .Values.namespaces }}{{ else }}{{ .Release.Namespace }}{{ end }}
{{- end -}}

{{/* Where a person's first pipeline goes. Not beside the operator: whoever writes pipelines runs pods as any account there. */}}
{{- define "sluice.firstNamespace" -}}
{{- $others := without (default list .Values.namespaces) .Release.Namespace -}}
{{ if $others }}{{ first $others }}{{ else if .Values.namespaces }}{{ .Release.Namespace }}{{ else }}observability{{ end }}
{{- end -}}

{{/* Call with (list $ $image). */}}
{{- define "sluice.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* Labels of every object: the chart's own, and those that are said for all of them. */}}
{{- define "sluice.labels" -}}
{{- include "sluice.labelsWith" (list .) -}}
{{- end -}}

{{/* The same with those that are said for this object, which win. Call with (list $ $labels…); the first one that says a
     label counts. Merged, because readers of YAML refuse a key that is there twice. */}}
{{- define "sluice.labelsWith" -}}
{{- $root := first . -}}
{{- $labels := dict -}}
{{- range rest . -}}
{{- $labels = merge $labels (default dict .) -}}
{{- end -}}
{{- with merge $labels (default dict $root.Values.commonLabels) -}}
{{ toYaml . }}
{{ end -}}
{{- include "sluice.ownLabels" $root -}}
{{- end -}}

{{- define "sluice.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Consumers admit questions from pods with this very name: see network_policy in the operator. */}}
{{- define "sluice.operatorSelector" -}}
app.kubernetes.io/name: sluice-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* What belongs to the release as a whole. Nothing selects by it. */}}
{{- define "sluice.releaseLabels" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "sluice.demoSelector" -}}
app.kubernetes.io/name: sluice-demo
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "sluice.testSelector" -}}
app.kubernetes.io/name: sluice-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Said in full: a namespace with a ResourceQuota takes no pod without; and close together, for those with a LimitRange. */}}
{{- define "sluice.testResources" -}}
requests: { cpu: 25m, memory: 32Mi }
limits: { cpu: 200m, memory: 128Mi }
{{- end -}}

{{/* The pod security standard "restricted". */}}
{{- define "sluice.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "sluice.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* On which nodes pods may run. Call with the values of the operator or the demo. */}}
{{- define "sluice.nodes" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same, and which of them they prefer. */}}
{{- define "sluice.scheduling" -}}
{{- include "sluice.nodes" . }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}
