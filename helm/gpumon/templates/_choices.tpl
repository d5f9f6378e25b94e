{{/*
What follows from several values together; "" in a value means: as the security profile has it.
*/}}
{{- define "gpumon.isRestricted" -}}
{{- if eq .Values.securityProfile "restricted" }}true{{ end }}
{{- end }}

{{- define "gpumon.processView" -}}
{{- .Values.processView | default (ternary "none" "hostPID" (eq .Values.securityProfile "restricted")) }}
{{- end }}

{{- define "gpumon.podNames" -}}
{{- if eq (.Values.podNames | default (ternary "off" "kubelet" (eq .Values.securityProfile "restricted"))) "kubelet" }}true{{ end }}
{{- end }}

{{- define "gpumon.dataVolume" -}}
{{- .Values.data.volume | default (ternary "emptyDir" "hostPath" (eq .Values.securityProfile "restricted")) }}
{{- end }}

{{/* Bytes that history may take of an emptyDir, where neither the settings say nor the limit is written in another unit. */}}
{{- define "gpumon.diskBytes" -}}
{{- $limit := toString .Values.data.sizeLimit }}
{{- $isSet := include "gpumon.setting" (list "storage" "max_disk_bytes" "" .) }}
{{- if and (eq (include "gpumon.dataVolume" .) "emptyDir") (regexMatch "^[0-9]+Gi$" $limit) (not $isSet) }}
{{- /* Three quarters of 1 GiB each: the rest is for SQLite's log and for files while they are written. */}}
{{- mul (trimSuffix "Gi" $limit) 805306368 }}
{{- end }}
{{- end }}

{{/* One option of gpumon as these values set it, or its default: list "section" "key" default root. */}}
{{- define "gpumon.setting" -}}
{{- $section := get (index . 3).Values.config (index . 0) | default dict }}
{{- if hasKey $section (index . 1) }}{{ get $section (index . 1) }}{{ else }}{{ index . 2 }}{{ end }}
{{- end }}

{{- define "gpumon.metricsPort" -}}
{{- include "gpumon.setting" (list "telemetry" "metrics_port" 9090 .) }}
{{- end }}

{{- define "gpumon.servesMetrics" -}}
{{- if eq (include "gpumon.setting" (list "telemetry" "enable_prometheus" true .)) "true" }}true{{ end }}
{{- end }}

{{- define "gpumon.apiPort" -}}
{{- include "gpumon.setting" (list "api" "port" 8010 .) }}
{{- end }}

{{/* The ports that others in the cluster reach, by name, as YAML. */}}
{{- define "gpumon.ports" -}}
{{- if include "gpumon.servesMetrics" . }}
metrics: {{ include "gpumon.metricsPort" . }}
{{- end }}
{{- if .Values.api.expose }}
api: {{ include "gpumon.apiPort" . }}
{{- end }}
{{- end }}

{{/* Names by which the API may be asked: the Service's, and what the settings add. */}}
{{- define "gpumon.apiHosts" -}}
{{- $name := include "gpumon.fullname" . }}
{{- $within := printf "%s.%s" $name .Release.Namespace }}
{{- $hosts := list $name $within (printf "%s.svc" $within) (printf "%s.svc.cluster.local" $within) }}
{{- append $hosts (include "gpumon.setting" (list "api" "allowed_hosts" "" .)) | compact | join " " }}
{{- end }}

{{- define "gpumon.asksApiServer" -}}
{{- if include "gpumon.setting" (list "kubernetes" "pod_labels" "" .) }}true{{ end }}
{{- end }}

{{- define "gpumon.scheme" -}}
{{- if and .Values.webConfig.secretName .Values.webConfig.tls }}https{{ else }}http{{ end }}
{{- end }}

{{/* Stops the installation with one sentence where values do not go together. */}}
{{- define "gpumon.checkValues" -}}
{{- if include "gpumon.isRestricted" . }}
{{- $forbidden := list }}
{{- if ne (include "gpumon.processView" .) "none" }}{{ $forbidden = append $forbidden (printf "processView %s" (include "gpumon.processView" .)) }}{{ end }}
{{- if include "gpumon.podNames" . }}{{ $forbidden = append $forbidden "podNames kubelet" }}{{ end }}
{{- if eq (include "gpumon.dataVolume" .) "hostPath" }}{{ $forbidden = append $forbidden "data.volume hostPath" }}{{ end }}
{{- if .Values.securityContext.privileged }}{{ $forbidden = append $forbidden "securityContext.privileged" }}{{ end }}
{{- if .Values.securityContext.allowPrivilegeEscalation }}{{ $forbidden = append $forbidden "securityContext.allowPrivilegeEscalation" }}{{ end }}
{{- range without ((.Values.securityContext.capabilities).add | default list) "NET_BIND_SERVICE" }}{{ $forbidden = append $forbidden (printf "capability %s" .) }}{{ end }}
{{- range $name, $context := dict "podSecurityContext" .Values.podSecurityContext "securityContext" .Values.securityContext }}
{{- if eq (toString (get $context "runAsUser")) "0" }}{{ $forbidden = append $forbidden (printf "%s.runAsUser 0" $name) }}{{ end }}
{{- if eq (toString (get $context "runAsNonRoot")) "false" }}{{ $forbidden = append $forbidden (printf "%s.runAsNonRoot false" $name) }}{{ end }}
{{- if eq (toString ($context.seccompProfile).type) "Unconfined" }}{{ $forbidden = append $forbidden (printf "%s.seccompProfile Unconfined" $name) }}{{ end }}
{{- end }}
{{- if .Values.kernelLog }}{{ $forbidden = append $forbidden "kernelLog" }}{{ end }}
{{- if .Values.migMonitor }}{{ $forbidden = append $forbidden "migMonitor" }}{{ end }}
{{- if .Values.hostNetwork }}{{ $forbidden = append $forbidden "hostNetwork" }}{{ end }}
{{- range .Values.extraVolumes }}{{ if .hostPath }}{{ $forbidden = append $forbidden (printf "extraVolumes %s" .name) }}{{ end }}{{ end }}
{{- if $forbidden }}
{{- fail (printf "securityProfile restricted does not allow %s; leave that out, or set securityProfile to default" (join ", " $forbidden)) }}
{{- end }}
{{- end }}
{{- if and (eq (include "gpumon.dataVolume" .) "claim") (not .Values.data.claimName) }}
{{- fail "data.volume is claim, so data.claimName must name a PersistentVolumeClaim" }}
{{- end }}
{{- if and .Values.api.expose (not .Values.api.tokenSecret.name) }}
{{- fail "api.expose is true, so api.tokenSecret.name must name a Secret with the token that readers of the API send" }}
{{- end }}
{{- if and .Values.api.expose (ne (include "gpumon.setting" (list "api" "enabled" true .)) "true") }}
{{- fail "api.expose is true, but config.api.enabled is false, so there is no API" }}
{{- end }}
{{- if and (ne .Values.prometheus.monitor "none") (not (include "gpumon.servesMetrics" .)) }}
{{- fail (printf "prometheus.monitor is %s, but config.telemetry.enable_prometheus is false, so there is nothing to scrape" .Values.prometheus.monitor) }}
{{- end }}
{{- if and (eq .Values.prometheus.monitor "ServiceMonitor") (not .Values.service.enabled) }}
{{- fail "prometheus.monitor is ServiceMonitor, so service.enabled must be true; PodMonitor needs no Service" }}
{{- end }}
{{- end }}
