#!/usr/bin/env bash
# Renders the charts into manifests/, for whoever applies them with kubectl alone (`make manifests`), with real Helm, which is built
# once from its Go module. Into another folder: manifests.sh FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-manifests}
helm=$(scripts/go-tool.sh helm)
mkdir -p "$out"/{hub,processes,member}

# rendered FILE CHART NAMESPACE ARGS...: Helm's answer below a line that says where it comes from
rendered() {
    local file=$1 chart=$2 namespace=$3
    shift 3
    {
        printf '# rendered by make manifests from charts/%s; edit that instead\n' "$chart"
        "$helm" template "$chart" "charts/$chart" --namespace "$namespace" --kube-version 1.34.4 "$@"
    } >"$file.new"
    mv "$file.new" "$file"
}
rendered "$out/hub/objects.yaml" muster muster-system --set processes=false,crds.install=false
only=()
for part in charts/muster/templates/processes/*.yaml charts/muster/templates/{storage,network,disruption}.yaml; do
    only+=(--show-only "${part#charts/muster/}")
done
rendered "$out/processes/processes.yaml" muster muster-system --values charts/muster/manifests-values.yaml "${only[@]}"
rendered "$out/member/muster-agent.yaml" muster-agent muster-lent --set existingPolicyConfigMap=muster-policy,image.tag=0.1.0
