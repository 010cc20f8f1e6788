#!/usr/bin/env bash
# Regenerates go.mod and go.sum of kubebox; run it only to change a version.
#
# k8s.io/kubernetes pins its staging modules with replace directives, which do
# not apply to a module that imports it, so this main module repeats them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

KUBERNETES=${1:-34.4} # the part after "1.": also the staging modules' 0.X version
COREDNS=${2:-v1.13.1} # later ones want client-go 0.35 or newer

staging=(
    api apiextensions-apiserver apimachinery apiserver cli-runtime client-go
    cloud-provider cluster-bootstrap code-generator component-base
    component-helpers controller-manager cri-api cri-client csi-translation-lib
    dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator
    kube-controller-manager kube-proxy kube-scheduler kubectl kubelet metrics
    mount-utils pod-security-admission sample-apiserver sample-cli-plugin
    sample-controller
)

rm -f go.sum
{
    printf 'module muster.dev/kubebox\n\ngo 1.24.0\n\n'
    printf 'require k8s.io/kubernetes v1.%s\n\nreplace (\n' "$KUBERNETES"
    for module in "${staging[@]}"; do
        printf '\tk8s.io/%s => k8s.io/%s v0.%s\n' "$module" "$module" "$KUBERNETES"
    done
    printf ')\n'
} >go.mod
go get "github.com/coredns/coredns@$COREDNS"
go mod tidy
