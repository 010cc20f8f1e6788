//! The scenarios, one file for each kind of promise. Short ones first, so that a broken stack is seen in a minute.
mod admission;
mod api;
mod attacks;
mod audits;
mod bits;
mod deletion;
mod hostile_hub;
mod idle;
mod lifecycle;
mod local;
mod logs;
mod loss;
mod outages;
mod person;
mod proofs;
mod provider;
mod provider_lies;
mod queue;
mod recovery;
mod refusals;
mod resources;
mod restore;
mod rights;
mod stop_rule;
mod tools;
mod trust;
mod uploads;
mod urls;
mod weights;

use crate::harness::Scenario;
use crate::scenario;

pub fn all() -> Vec<Scenario> {
    [most(), idle::all(), audits::lies()].into_iter().flatten().collect()
}

fn most() -> Vec<Scenario> {
    vec![
        scenario!(
            Short,
            300,
            "api-conformance",
            api::conformance,
            "the real API server takes every CRD and example and refuses the bad objects, naming the field"
        ),
        scenario!(
            Short,
            240,
            "pods-equal-local",
            bits::pods_equal_local,
            "two pods and one local process end in the same state root, and the job reads well meanwhile"
        ),
        scenario!(
            Short,
            600,
            "proof",
            proofs::bundle,
            "a job's bundle holds without its hub, is replayed, and each of 200 flipped bits in it is named"
        ),
        scenario!(
            Short,
            300,
            "pod-killed",
            recovery::once,
            "a worker pod killed mid-run: training goes on within 30 s (target 15) and the bits are equal"
        ),
        scenario!(
            Short,
            240,
            "delete-while-running",
            deletion::while_running,
            "a running job deleted: nothing labelled is left on hub and member within 60 s"
        ),
        scenario!(
            Short,
            60,
            "missing-dataset",
            refusals::missing_dataset,
            "a dataset that the namespace does not have: the condition says what and what to do"
        ),
        scenario!(
            Short,
            60,
            "no-provider",
            refusals::no_provider,
            "no provider fits: the condition tells why each was passed over"
        ),
        scenario!(
            Short,
            420,
            "member-cut-off",
            loss::cut_off,
            "a member vanishes behind a cut cable mid-run: another one goes on within 90 s (target 45), same bits"
        ),
        scenario!(
            Short,
            180,
            "join-and-revoke",
            attacks::join_and_revoke,
            "tokens used twice, late, raced, stolen; foreign objects and data; a revoked provider is out within a second"
        ),
        scenario!(
            Short,
            120,
            "admission",
            admission::admission,
            "tokens that live too long, Leases with more than a heartbeat, jobs beyond their namespace's limits: refused"
        ),
        scenario!(
            Short,
            300,
            "hostile-hub",
            hostile_hub::hostile_hub,
            "a hub in wrong hands signs some 80 bad units with the right key: each refused by its reason, 0 Jobs, 0 pods"
        ),
        scenario!(
            Short,
            480,
            "audited",
            audits::audited,
            "a job of tier Gold: another owner replays what is drawn, all match, same bits, its proof holds offline"
        ),
        // ---- make test-full from here on
        scenario!(
            Full,
            600,
            "evaluated",
            audits::evaluated,
            "a job with held-out data: pods, auditors, a local run and a replay of the proof come to the same losses there"
        ),
        scenario!(
            Full,
            600,
            "stop-rule",
            stop_rule::stop_rule,
            "a loss on held-out data ends the job: pods, auditors, a local run and the proof end it after the same step"
        ),
        scenario!(
            Full,
            600,
            "weights",
            weights::begins_with_weights,
            "a job begins with weights in others' form: pods, auditors, a local run and the proof come to the same bits"
        ),
        scenario!(
            Full,
            600,
            "preempted",
            queue::preempted,
            "a full provider: an equal job waits and says why, a more important one is made room for; same bits"
        ),
        scenario!(
            Full,
            420,
            "resized",
            queue::resized,
            "workers.count changed twice in a run: units of the new size from the next interval on, same bits"
        ),
        scenario!(
            Full,
            2400,
            "provider-lies",
            provider_lies::provider_lies,
            "a provider commits twice, before its key is bound, and what it committed elsewhere: refused, same bits"
        ),
        scenario!(
            Full,
            420,
            "uploads",
            uploads::uploads,
            "uploads cut, flipped, replayed, too many, too late, on a full and on a dead disk: refused, never half-visible"
        ),
        scenario!(
            Full,
            420,
            "logs",
            logs::logs,
            "a running job's log is followed, a failed attempt's is kept; strangers and a provider's refusal get nothing"
        ),
        scenario!(
            Full,
            180,
            "urls",
            urls::urls,
            "a URL of one object works without credentials; tampered, spliced or for another method it is 403"
        ),
        scenario!(
            Full,
            600,
            "workers-1-2-3",
            bits::worker_counts,
            "pods with 1, 2 and 3 workers, local runs with 1, 2, 3 workers and 1, 2 threads: one state root"
        ),
        scenario!(
            Full,
            300,
            "twice-in-a-row",
            bits::twice,
            "the same YAML applied twice gives the same training digest and the same state root"
        ),
        scenario!(
            Full,
            300,
            "every-instruction-set",
            bits::instruction_sets,
            "every kernel variant that this CPU has gives the same bits; those it lacks are named"
        ),
        scenario!(
            Full,
            600,
            "resume-every-checkpoint",
            bits::resume_every_checkpoint,
            "a run resumed from each of its checkpoints ends in the same state root"
        ),
        scenario!(
            Full,
            600,
            "pod-killed-three-times",
            recovery::three_times,
            "three kills in a row, each another way: every recovery measured, asserted at twice 15 s, bits equal"
        ),
        scenario!(
            Full,
            300,
            "worker-process-killed",
            recovery::worker_process,
            "only the worker process dies: its pod starts it again, same attempt, same bits"
        ),
        scenario!(
            Full,
            420,
            "sidecar-killed",
            recovery::sidecar_process,
            "rank 0's sidecar dies mid-run: it is started again with its key, no attempt is lost, same bits"
        ),
        scenario!(
            Full,
            420,
            "agent-down",
            outages::agent_down,
            "the agent is down for 30 s: steps advance meanwhile, bits equal"
        ),
        scenario!(
            Full,
            420,
            "hub-down",
            outages::hub_down,
            "the hub is down for 30 s: steps advance meanwhile, bits equal"
        ),
        scenario!(
            Full,
            420,
            "gateway-down",
            outages::gateway_down,
            "the gateway is down for 30 s: steps advance meanwhile, nothing restarts, bits equal"
        ),
        scenario!(
            Full,
            420,
            "hub-api-down",
            outages::hub_api_down,
            "the hub's API server is down for 30 s: steps advance meanwhile, bits equal"
        ),
        scenario!(
            Full,
            900,
            "outages-short",
            outages::short,
            "the hub's etcd for 1 and 10 s, its API server, hub and gateway for 1 s away: nothing restarts, bits equal"
        ),
        scenario!(
            Full,
            1800,
            "outages-long",
            outages::long,
            "the hub's etcd, its API server, hub and gateway away for 60 s each: steps advance meanwhile, bits equal"
        ),
        scenario!(
            Full,
            1800,
            "hub-restored",
            restore::hub_restored,
            "the hub's database goes back two minutes: no running pod is touched, one unit at a time, same bits"
        ),
        scenario!(
            Full,
            420,
            "member-cut-inwards",
            loss::cut_inwards,
            "a member that sends but hears nothing: another one goes on, same bits"
        ),
        scenario!(
            Full,
            420,
            "member-cut-outwards",
            loss::cut_outwards,
            "a member that hears but cannot send: another one goes on, same bits"
        ),
        scenario!(
            Full,
            180,
            "agent-doctor",
            provider::doctor,
            "the doctor in the agent's pod finds all well, the allowed image pulled and started, and leaves nothing"
        ),
        scenario!(
            Full,
            420,
            "agent-stop",
            provider::stop_and_resume,
            "`muster agent stop`: all lent pods end and none comes; after `resume` the job goes on, same bits"
        ),
        scenario!(
            Full,
            600,
            "member-killed",
            loss::processes_killed,
            "agent, kubelet, containerd and pods of a member die at once: another one goes on, same bits"
        ),
        scenario!(
            Full,
            420,
            "delete-at-each-phase",
            deletion::at_each_phase,
            "deleted while Pending, Placing, Running, Recovering, Succeeded: nothing labelled left in 60 s"
        ),
        scenario!(
            Full,
            60,
            "invalid-job",
            refusals::invalid_job,
            "an invalid TrainingJob is refused by the API server with the field's path"
        ),
        scenario!(
            Full,
            120,
            "local-bad-data",
            local::bad_data,
            "data that is absent, truncated, flipped or of another vocabulary ends with 66 and says so"
        ),
        scenario!(
            Full,
            180,
            "local-bad-checkpoint",
            local::bad_checkpoint,
            "a corrupt checkpoint or another job's directory never reaches a result"
        ),
        scenario!(
            Full,
            60,
            "local-not-finite",
            local::not_finite,
            "a loss that is no number ends with 65 and names the step"
        ),
        scenario!(
            Full,
            180,
            "local-disk-full",
            local::disk_full,
            "a full disk ends with 74; with room again the same directory goes on to the same bits"
        ),
        scenario!(
            Full,
            300,
            "image-missing",
            resources::image_missing,
            "the trainer's image is not on the member: the job says so and what to do"
        ),
        scenario!(
            Full,
            300,
            "out-of-memory",
            resources::out_of_memory,
            "a real OOM kill: the job says which worker, its limit, and to raise the memory"
        ),
        scenario!(
            Full,
            300,
            "suspend-resume",
            lifecycle::suspend_resume,
            "suspend stops at an interval's end and frees the member, resume goes on, bits equal"
        ),
        scenario!(
            Full,
            180,
            "foreign-job",
            lifecycle::foreign_job,
            "a Job of the same name that is not ours is neither adopted nor deleted"
        ),
        scenario!(
            Full,
            180,
            "tampered-unit",
            trust::tampered_unit,
            "units whose mirror or envelope was altered are refused and make no pods"
        ),
        scenario!(
            Full,
            240,
            "rights",
            rights::matrix,
            "every identity x verb x resource x place against the golden file: no right that nobody decided on"
        ),
        scenario!(
            Full,
            60,
            "other-provider",
            trust::other_provider,
            "the agent's token gets 403 on another provider's objects and on every Secret"
        ),
        scenario!(
            Full,
            900,
            "clusters-check",
            tools::clusters_check,
            "the clusters themselves: TLS, DNS, pods, restricted Pod Security"
        ),
        scenario!(
            Full,
            1500,
            "torch",
            tools::torch,
            "PyTorch float64, safetensors and transformers agree with the trainer"
        ),
        scenario!(Full, 2400, "demo-twice", tools::demo_twice, "`make demo`, and again at once"),
    ]
}
