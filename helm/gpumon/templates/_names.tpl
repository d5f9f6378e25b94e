{{/* What every object of a release is called; 50 characters leave room for what comes after in names of 63. */}}
{{- define "gpumon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "gpumon.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "gpumon.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "gpumon.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Names of what belongs to no namespace; no namespace has a colon in its name, so no two releases meet. */}}
{{- define "gpumon.clusterName" -}}
{{- printf "gpumon:%s:%s" .Release.Namespace (include "gpumon.fullname" .) }}
{{- end }}

{{- define "gpumon.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "gpumon.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What selects a release's pods; may never change, because a DaemonSet's selector cannot. */}}
{{- define "gpumon.selector" -}}
app.kubernetes.io/name: {{ include "gpumon.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "gpumon.labels" -}}
{{ include "gpumon.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gpumon.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* Labels of the pod of helm test, which must not be selected as one of gpumon's own. */}}
{{- define "gpumon.testLabels" -}}
app.kubernetes.io/name: {{ include "gpumon.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
