{{- define "vmss-upgrade-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* At most 52 characters: what Kubernetes makes of it for a StatefulSet's pods must fit a label of 63. */ -}}
{{- define "vmss-upgrade-exporter.fullname" -}}
{{- $name := include "vmss-upgrade-exporter.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "vmss-upgrade-exporter.selector" -}}
app.kubernetes.io/name: {{ include "vmss-upgrade-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "vmss-upgrade-exporter.metadata" -}}
name: {{ include "vmss-upgrade-exporter.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  {{- include "vmss-upgrade-exporter.selector" . | nindent 2 }}
{{- end }}

{{- /* The alerts know the exporter by this word in the job's name. */ -}}
{{- define "vmss-upgrade-exporter.job" -}}
{{- $fullname := include "vmss-upgrade-exporter.fullname" . }}
{{- if contains "vmss-upgrade-exporter" $fullname }}
{{- $fullname }}
{{- else }}
{{- printf "vmss-upgrade-exporter-%s" $fullname }}
{{- end }}
{{- end }}

{{- define "vmss-upgrade-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "vmss-upgrade-exporter.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "vmss-upgrade-exporter.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}
