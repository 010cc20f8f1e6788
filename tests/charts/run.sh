#!/usr/bin/env bash
# `make charts`: both charts with real Helm. What they refuse and render to; then, on a hub and a member of their own (instance
# `chart`, removed at the end), all processes as pods: install, join, train to the bits of one local process, another hub takes
# over, upgrade and roll back under a running job, uninstall, install again on what was kept. Ends with `N passed, N failed, N
# skipped`.
#
# Settings: CHARTS_CLUSTERS=0 skips the clusters, CHARTS_KEEP=1 leaves them up. Needs the workspace's dev build of muster and
# muster-trainer (cargo build --workspace), which it makes.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export CLUSTER_INSTANCE=chart CLUSTER_SUBNET=${CHARTS_SUBNET:-10.96.0} CLUSTERS="hub east"
unset CLUSTER_STATE CLUSTER_RUNTIME
cd "$here/../.."
export MUSTER_RUN=$PWD/.run/charts RUN_DIR=$PWD/.run/charts
# shellcheck source=/dev/null
source scripts/common.sh
# shellcheck source=/dev/null
source "$here/values.sh"
# shellcheck source=/dev/null
source "$here/clusters.sh"

# shellcheck source=/dev/null
source "$here/checks.sh"

HELM=$(scripts/go-tool.sh helm)
check "helm lint" lint
check "each bad value is refused, and the refusal names it" bad_values
check "values reach the objects that they are about" values_reach_objects
check "every pod is within the restricted profile" pods_are_restricted
check "manifests/ is what the charts render to" manifests_are_current
if [ "${CHARTS_CLUSTERS:-1}" = 0 ]; then
    skip "charts on clusters" "CHARTS_CLUSTERS=0"
else
    check "clusters and images" prepare
    check "the hub is installed, every process a pod" install_hub
    check "an agent is installed and joins" install_agent
    check "what nodes have room for is all that is offered, where the policy says so" counts_nodes
    check "a job of two pods ends in the bits of one local process" job_equals_local first
    check "the hub's own auditor replays what is drawn" audited_by_the_hub
    check "of two hubs one leads; when it is killed the other takes over" another_takes_over
    check "an upgrade under a running job changes no bit" upgrade_under_a_job
    check "an upgrade that does not come up is rolled back, and the job goes on" rollback_under_a_job
    check "uninstalling the agent leaves its key and nothing that runs" uninstall_agent
    check "uninstalling the hub leaves definitions, jobs, volumes and identities" uninstall_hub
    check "what was kept is taken up again, without a new token" install_again
    check "a job on what was taken up again ends in the bits of one local process" job_equals_local second
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
