#!/usr/bin/env bash
# `make kueue`: hub and agent with a real Kueue beside each (0.19.2, built from its Go module and installed by its own chart, with its
# webhooks). Jobs wait in the hub's queues, make way for more important ones and go on; workers wait in the member's, and are pushed
# out. All of them end in the bits of one local process. Ends with `N passed, N failed, N skipped`.
#
# Settings: KUEUE_KEEP=1 leaves the clusters (instance `kueue`) up. Needs the workspace's dev build of muster and muster-trainer
# (cargo build --workspace), which it makes.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export CLUSTER_INSTANCE=kueue CLUSTER_SUBNET=${KUEUE_SUBNET:-10.98.0} CLUSTERS="hub east"
unset CLUSTER_STATE CLUSTER_RUNTIME
cd "$here/../.."
export MUSTER_RUN=$PWD/.run/kueue RUN_DIR=$PWD/.run/kueue CHARTS_KEEP=${KUEUE_KEEP:-}
# shellcheck source=/dev/null
source scripts/common.sh
for part in charts/values charts/clusters charts/checks kueue/steps; do
    # shellcheck source=/dev/null
    source "tests/$part.sh"
done

HELM=$(scripts/go-tool.sh helm)
KUEUE=$(scripts/go-tool.sh kueue)
check "clusters and images" prepare
check "the hub is installed" install_hub
check "an agent is installed and joins" install_agent
check "a labelled job where no Kueue is rests and says so" rests_without_kueue
check "Kueue is installed on the hub" install_kueue hub
check "Kueue is installed on the member" install_kueue east
check "that job waits for its LocalQueue, and trains once there is one" waits_for_its_queue
check "of two jobs one trains, the other waits for quota and has no unit" one_at_a_time
check "a more important job is let in at the end of an interval, and the evicted one goes on" makes_way
check "a paused job gives its place back and queues anew" paused
check "who was deleted, or is done, holds nothing" nothing_is_held
check "workers wait in the member's Kueue" workers_wait
check "workers that Kueue pushes out start again where they were" workers_make_way
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
