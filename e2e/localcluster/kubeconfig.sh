#!/usr/bin/env bash
# Writes what a person or a test needs to talk to the clusters that are up:
#   .run/kubeconfig    one context per cluster, as its administrator, mode 0600
#   .run/bin/kubectl   kubectl of the clusters' own version
# and prints the export lines, alone on stdout, so that
# `eval "$(make -s clusters-kubeconfig)"` works. Other folder: $RUN_DIR.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/lib.sh"
run=${RUN_DIR:-$REPO/.run}

require_root clusters-kubeconfig # the keys are root's
check_settings
up=()
for cluster in hub east west north south; do
    [ ! -f "$STATE/$cluster/kubeconfig/admin" ] || up+=("$cluster")
done
((${#up[@]} > 0)) || die "no cluster is up" "make clusters"
kubebox=$(cat "$STATE/${up[0]}/kubebox")

mkdir -p "$run/bin"
cat >"$run/bin/kubectl.new" <<WRAPPER
#!/bin/sh
exec "$kubebox" kubectl "\$@"
WRAPPER
chmod 755 "$run/bin/kubectl.new"
mv "$run/bin/kubectl.new" "$run/bin/kubectl"

merged=$(IFS=:; printf '%s' "${up[*]/#/$STATE/}")
merged=${merged//:/\/kubeconfig\/admin:}/kubeconfig/admin
(umask 077 && KUBECONFIG=$merged "$run/bin/kubectl" config view --flatten --raw >"$run/kubeconfig.new")
mv "$run/kubeconfig.new" "$run/kubeconfig"
"$run/bin/kubectl" --kubeconfig "$run/kubeconfig" config use-context "${up[0]}" >/dev/null

log "contexts: ${up[*]}"
printf 'export KUBECONFIG=%q\n' "$run/kubeconfig"
printf 'export PATH=%q:$PATH\n' "$run/bin"
