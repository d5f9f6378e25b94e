{{/* User and seccomp profile of the pod. */}}
{{- define "gpumon.podSecurityContext" -}}
{{- $context := dict "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- if include "gpumon.isRestricted" . }}
{{- $_ := set $context "runAsNonRoot" true }}
{{- $_ := set $context "runAsUser" 65532 }}
{{- $_ := set $context "runAsGroup" 65532 }}
{{- /* So that a claim's files are this group's. */}}
{{- $_ := set $context "fsGroup" 65532 }}
{{- else }}
{{- /* Without a capability user 0 may do no more than any owner of files: the kubelet's socket is root's. */}}
{{- $_ := set $context "runAsUser" 0 }}
{{- $_ := set $context "runAsGroup" 0 }}
{{- end }}
{{- toYaml (mergeOverwrite $context (deepCopy .Values.podSecurityContext)) }}
{{- end }}

{{/* Rights of the container: none, unless a value that needs one is set. */}}
{{- define "gpumon.securityContext" -}}
{{- $context := dict "readOnlyRootFilesystem" true }}
{{- if or .Values.kernelLog .Values.securityContext.privileged }}
{{- /* A container may open no device that it was not given, and Kubernetes gives devices to privileged ones only. */}}
{{- $_ := set $context "privileged" true }}
{{- else }}
{{- $capabilities := dict "drop" (list "ALL") }}
{{- if .Values.migMonitor }}
{{- $_ := set $capabilities "add" (list "SYS_ADMIN") }}
{{- else }}
{{- /* The API refuses false together with SYS_ADMIN. */}}
{{- $_ := set $context "allowPrivilegeEscalation" false }}
{{- end }}
{{- $_ := set $context "capabilities" $capabilities }}
{{- end }}
{{- toYaml (mergeOverwrite $context (deepCopy .Values.securityContext)) }}
{{- end }}

{{- define "gpumon.env" -}}
- name: K8S_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- if not (include "gpumon.setting" (list "kubernetes" "node_name" "" .)) }}
- name: GPUMON_KUBERNETES_NODE_NAME
  value: $(K8S_NODE_NAME)
{{- end }}
{{- if not (include "gpumon.setting" (list "storage" "node_name" "" .)) }}
# Else an archive in an object store would be named after the pod.
- name: GPUMON_STORAGE_NODE_NAME
  value: $(K8S_NODE_NAME)
{{- end }}
{{- with .Values.clusterName }}
- name: K8S_CLUSTER_NAME
  value: {{ . | quote }}
{{- if not (include "gpumon.setting" (list "storage" "cluster_name" "" $)) }}
- name: GPUMON_STORAGE_CLUSTER_NAME
  value: {{ . | quote }}
{{- end }}
{{- end }}
# The image sets this one, and the environment goes before the file.
- name: GPUMON_SERVICE_DATA_DIR
  value: {{ include "gpumon.setting" (list "service" "data_dir" "/data" .) | quote }}
{{- with include "gpumon.diskBytes" . }}
# Else the kubelet would evict the pod one day, and its history with it.
- name: GPUMON_STORAGE_MAX_DISK_BYTES
  value: {{ . | quote }}
{{- end }}
{{- if eq (include "gpumon.processView" .) "proc" }}
- name: GPUMON_PROCESSES_PROC_ROOT
  value: /host/proc
{{- end }}
{{- if .Values.migMonitor }}
- name: NVIDIA_MIG_MONITOR_DEVICES
  value: all
{{- end }}
{{- with .Values.webConfig.secretName }}
- name: GPUMON_TELEMETRY_WEB_CONFIG_FILE
  value: /etc/gpumon/web/{{ $.Values.webConfig.key }}
{{- end }}
{{- if .Values.api.expose }}
- name: GPUMON_API_ADDRESS
  value: 0.0.0.0
- name: GPUMON_API_TOKEN_FILE
  value: /etc/gpumon/api/{{ .Values.api.tokenSecret.key }}
- name: GPUMON_API_ALLOWED_HOSTS
  value: {{ include "gpumon.apiHosts" . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
/healthz fails when there was no reading for 30 s, or when a driver call has hung for gpu.hung_limit_secs.
A kubelet cannot log in: with webConfig.login it sees by itself only whether the port is open, and gpumon health has to
say whether it answers. That starts a Python each time, so it is asked once a minute.
*/}}
{{- define "gpumon.probe" -}}
{{- if .login -}}
tcpSocket:
  port: metrics
{{- else -}}
httpGet:
  path: {{ .path }}
  port: metrics
  scheme: {{ .scheme | upper }}
{{- end }}
{{- end }}

{{- define "gpumon.probes" -}}
{{- $login := and .Values.webConfig.secretName .Values.webConfig.login }}
{{- $scheme := include "gpumon.scheme" . -}}
# The port is open half a second after the start; without persistence mode a driver takes seconds per GPU to wake.
startupProbe:
  {{- include "gpumon.probe" (dict "login" $login "scheme" $scheme "path" "/healthz") | nindent 2 }}
  {{- toYaml .Values.startupProbe | nindent 2 }}
livenessProbe:
  {{- if $login }}
  exec:
    command: [/usr/bin/gpumon, health, --config=/etc/gpumon/config.toml]
  {{- toYaml (mergeOverwrite (deepCopy .Values.livenessProbe) (dict "periodSeconds" 60 "timeoutSeconds" 10)) | nindent 2 }}
  {{- else }}
  {{- include "gpumon.probe" (dict "login" false "scheme" $scheme "path" "/healthz") | nindent 2 }}
  {{- toYaml .Values.livenessProbe | nindent 2 }}
  {{- end }}
readinessProbe:
  {{- include "gpumon.probe" (dict "login" $login "scheme" $scheme "path" "/readyz") | nindent 2 }}
  {{- toYaml .Values.readinessProbe | nindent 2 }}
{{- end }}

{{/*
Nodes that have one of gpuNodeLabels and are not being worked on; a nodeAffinity of the values' own replaces both.
NotIn holds for a node without the label, too.
*/}}
{{- define "gpumon.affinity" -}}
{{- $affinity := deepCopy .Values.affinity }}
{{- $common := list }}
{{- if .Values.yieldToGpuOperator }}
{{- $paused := list "paused-for-driver-upgrade" "paused-for-mig-change" "paused-for-vgpu-change" }}
{{- range list "nvidia.com/gpu.deploy.client" "nvidia.com/gpu.deploy.dcgm-exporter" }}
{{- $common = append $common (dict "key" . "operator" "NotIn" "values" $paused) }}
{{- end }}
{{- end }}
{{- $terms := list }}
{{- range .Values.gpuNodeLabels }}
{{- $label := dict "key" .key "operator" "Exists" }}
{{- if .value }}{{ $label = dict "key" .key "operator" "In" "values" (list .value) }}{{ end }}
{{- $terms = append $terms (dict "matchExpressions" (prepend $common $label)) }}
{{- else }}
{{- if $common }}{{ $terms = list (dict "matchExpressions" $common) }}{{ end }}
{{- end }}
{{- if and $terms (not $affinity.nodeAffinity) }}
{{- $required := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $_ := set $affinity "nodeAffinity" $required }}
{{- end }}
{{- if $affinity }}{{ toYaml $affinity }}{{ end }}
{{- end }}
