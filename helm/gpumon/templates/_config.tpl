{{/*
The settings as TOML. JSON's scalars are TOML's; toToml would make whole numbers floats, which gpumon refuses.
A list (processes.rules) is given as the JSON text that gpumon takes as well.
*/}}
{{- define "gpumon.config" -}}
# From the values below config: of release {{ .Release.Name }}.
{{- range $section, $options := .Values.config }}
{{- if $options }}
[{{ $section }}]
{{- range $key, $value := $options }}
{{ $key }} = {{ if kindIs "slice" $value }}{{ $value | toJson | toJson }}{{ else }}{{ $value | toJson }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
