# shellcheck shell=bash
# The hub's processes beside the clusters, under tokens of their own ServiceAccounts and nothing else: for benchmarks, whose clusters
# have no nodes. Sourced by stack.sh.
GATEWAY_URL=https://${MUSTER_GATEWAY_LISTEN:-$MUSTER_HOST:8443}
METRICS_LISTEN=${MUSTER_METRICS_LISTEN:-127.0.0.1:8444}
HUB_METRICS_LISTEN=${MUSTER_HUB_METRICS_LISTEN:-127.0.0.1:8446}

hub_is_as_wanted() { alive hub && alive registrar && alive gateway && [ "$(cat "$RUN/applied" 2>/dev/null)" = "$(manifests_hash)" ]; }
hub_install() {
    local part
    if ! hub_is_as_wanted; then
        # Server-side: the CRDs are larger than the annotation that client-side apply keeps.
        logged apply-hub "manifests/hub was refused" admin hub apply --server-side --force-conflicts -k "$REPO/manifests/hub"
        admin hub wait --for=condition=Established crd --all --timeout=60s >/dev/null
        manifests_hash >"$RUN/applied"
    fi
    mint_parts
    # The same binaries and arguments? Then this does nothing.
    for part in $PARTS; do part_start "$part"; done
}
manifests_hash() {
    # Another cluster needs them again, even if they are the same.
    { cat "$KUBECONFIG_ADMIN"; all_below "$REPO/manifests" "$REPO/crds"; } | sha256sum | cut -c1-16
}
part_start() {
    local image more=()
    case $1 in
    gateway)
        launch gateway "$MUSTER" gateway --kubeconfig "$RUN/gateway.kubeconfig" --state "$RUN/gateway" --store "$STORE" \
            --listen "${GATEWAY_URL#https://}" --public-url "$GATEWAY_URL" --metrics-listen "$METRICS_LISTEN"
        ;;
    hub)
        image=$(trainer_image)
        [ -z "${MUSTER_AUDIT_PATIENCE:-}" ] || more=(--audit-patience "$MUSTER_AUDIT_PATIENCE")
        # As a pod's uid would: the hub that follows goes on at once.
        launch hub "$MUSTER" hub --kubeconfig "$RUN/hub.kubeconfig" --store "$STORE" --state "$RUN/hub" \
            --trainer-image "$image" --identity stack --metrics-listen "$HUB_METRICS_LISTEN" "${more[@]}"
        ;;
    registrar) launch registrar "$MUSTER" registrar --kubeconfig "$RUN/registrar.kubeconfig" ;;
    # Beside the hub: it signs with the hub's key and reads the hub's store.
    auditor)
        launch auditor "$MUSTER" auditor --kubeconfig "$RUN/auditor.kubeconfig" --state "$RUN/hub" --store "$STORE" --work "$RUN/auditor"
        ;;
    esac
}
part_stop() { end "$1" "$2"; }
part_runs() { alive "$1"; }
part_log() { tail -n "$2" "$LOGS/$1.log" || true; }
hub_remove() { :; }
