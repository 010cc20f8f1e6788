use super::*;

mod withdrawn;

fn plan() -> Plan {
    Plan {
        unit: "u-0-1".to_owned(),
        workers: 2,
        steps: 100,
        memory: "1Gi".to_owned(),
        max_restarts: 5,
        attempts: Attempts::Many,
        schedule_timeout_seconds: 60,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn world(now: i64) -> World {
    World {
        now: at(now),
        desired: Desired::Run,
        stop: None,
        checkpoint_step: 0,
        ends: false,
        step: 0,
        crash_loop: None,
        failed: None,
        known_attempt: 0,
        waits_for: None,
        refused_create: None,
        withdrawn: None,
        jobs: vec![],
        pods: vec![],
    }
}

fn job(attempt: i64) -> Job {
    Job {
        name: format!("u-0-1-{attempt}"),
        uid: format!("job-{attempt}"),
        attempt,
        created: at(0),
        deleting: false,
        failed: None,
        suspended: None,
        failed_create: None,
    }
}

fn pod(attempt: i64, rank: i64, state: PodState) -> Pod {
    let terminal = matches!(state, PodState::Done | PodState::Ended(_));
    let name = format!("u-0-1-{attempt}-{rank}");
    Pod { uid: format!("uid-{name}"), name, attempt, rank, grace: None, terminal, state }
}

fn ended(reason: Reason) -> PodState {
    PodState::Ended(End { reason, exit_code: Some(1), message: String::new() })
}

/// An attempt whose two workers run, from checkpoint `start_step`.
fn running(attempt: i64, start_step: i64) -> Memory {
    Memory { attempt, created: true, since: Some(at(0)), ran: true, start_step, ..Memory::default() }
}

fn with(attempt: i64, states: [PodState; 2], mut world: World) -> World {
    world.jobs = vec![job(attempt)];
    world.pods = states.into_iter().zip(0..).map(|(state, rank)| pod(attempt, rank, state)).collect();
    world
}

#[test]
fn the_first_attempt_starts_runs_and_succeeds() {
    let first = decide(&plan(), &Memory::default(), &world(0));
    assert_eq!(first.actions, [Action::Create { attempt: 1 }]);
    assert_eq!((first.phase, first.ready.reason), ("Starting", "Starting"));

    let starting = with(1, [PodState::Running, PodState::Waiting(None)], world(1));
    let second = decide(&plan(), &first.memory, &starting);
    assert_eq!((second.phase, &second.actions[..]), ("Starting", &[][..]));
    assert_eq!(second.scheduled.unwrap().message, "1/2 workers run");

    let both = with(1, [PodState::Running, PodState::Running], world(2));
    let third = decide(&plan(), &second.memory, &both);
    assert_eq!((third.phase, third.ready.reason, third.ready.status), ("Running", "Training", true));
    assert_eq!(third.scheduled.unwrap().reason, "AllRunning");
    assert_eq!(third.released, None, "said at the end only");
    assert_eq!(third.wake, None, "nothing to do until something happens");

    // Rank 1 ends first; that is no failure.
    let one = decide(&plan(), &third.memory, &with(1, [PodState::Running, PodState::Done], world(3)));
    assert_eq!((one.phase, one.memory.outcome), ("Running", None));

    let mut done = with(1, [PodState::Done, PodState::Done], world(4));
    done.checkpoint_step = 100;
    let last = decide(&plan(), &one.memory, &done);
    assert_eq!(
        (last.phase, last.memory.outcome),
        ("Draining", Some(Outcome::Succeeded)),
        "the Job still stands"
    );
    // Before that step: only where the stop rule ends the job.
    for (ends, outcome) in [(true, Some(Outcome::Succeeded)), (false, None)] {
        let early = World { checkpoint_step: 40, ends, ..done.clone() };
        assert_eq!(decide(&plan(), &one.memory, &early).memory.outcome, outcome, "ends {ends}");
    }
    assert!(!last.released.as_ref().unwrap().status);
    done.jobs.clear();
    assert_eq!(decide(&plan(), &last.memory, &done).phase, "Succeeded");
    let after = decide(&plan(), &last.memory, &world(5));
    assert_eq!((after.phase, after.released.unwrap().reason), ("Succeeded", "ChildrenGone"));
    let stopped = decide(&plan(), &last.memory, &World { desired: Desired::Stop, ..world(6) });
    assert_eq!(stopped.phase, "Released");
}

#[test]
fn any_bad_end_ends_the_attempt_and_the_next_waits_for_all_its_pods() {
    let memory = running(1, 0);
    let mut killed = with(1, [PodState::Running, ended(Reason::PodLost)], world(10));
    killed.step = 7;
    let first = decide(&plan(), &memory, &killed);
    assert!(first.memory.over);
    let names: Vec<_> = first.actions.iter().map(|action| format!("{action:?}")).collect();
    assert!(names[0].contains("DeleteJob") && names[1].contains("u-0-1-1-0"), "{names:?}");
    assert_eq!((first.phase, first.ready.reason), ("Starting", "Restarting"));
    assert_eq!(first.memory.last_failure.as_ref().unwrap().message, "the pod of worker 1 was deleted");

    // The survivor is on its way out: nothing new yet, and nothing is said twice.
    let mut leaving = with(1, [PodState::Running, ended(Reason::PodLost)], world(11));
    leaving.jobs.clear();
    leaving.pods[0].grace = Some(1);
    leaving.pods[1].grace = Some(1);
    let second = decide(&plan(), &first.memory, &leaving);
    assert_eq!(second.actions, []);
    assert_eq!(second.memory, first.memory);

    // Terminal but still listed: it cannot run again.
    leaving.pods.truncate(1);
    leaving.pods[0].terminal = true;
    let third = decide(&plan(), &second.memory, &leaving);
    assert_eq!(third.actions, [Action::Create { attempt: 2 }], "the first restart is immediate");
    assert_eq!((third.memory.attempt, third.memory.restarts, third.memory.restarted), (2, 1, 1));
    assert_eq!((second.memory.restarts, second.memory.restarted), (1, 0), "nothing was restarted yet");
}

/// Under Kueue a Job is made suspended: it waits, runs once it is admitted, and what is suspended again has lost its pods.
#[test]
fn a_suspended_job_waits_and_one_that_ran_has_made_room() {
    let memory = decide(&plan(), &Memory::default(), &world(0)).memory;
    let queued = |message: &str| Job { suspended: Some(message.to_owned()), ..job(1) };
    let waiting = World { jobs: vec![queued("1 more needed")], ..world(1) };
    let first = decide(&plan(), &memory, &waiting);
    assert_eq!((first.phase, first.ready.reason, &first.actions[..]), ("Queued", "Starting", &[][..]));
    let scheduled = first.scheduled.unwrap();
    assert_eq!((scheduled.reason, scheduled.message.as_str()), ("QueuedByKueue", "1 more needed"));

    // It waits for as long as a unit may for its workers.
    let late = World { now: at(plan().schedule_timeout_seconds), ..waiting };
    let given_up = decide(&plan(), &first.memory, &late).memory.last_failure.unwrap();
    assert_eq!(given_up.reason, "ScheduleTimeout");
    assert!(given_up.message.ends_with(": 1 more needed"), "{}", given_up.message);

    let both = decide(&plan(), &first.memory, &with(1, [PodState::Running, PodState::Running], world(2)));
    assert_eq!(both.phase, "Running");
    let mut evicted = with(1, [PodState::Running, ended(Reason::Killed)], world(3));
    evicted.jobs = vec![queued("preempted")];
    let ended = decide(&plan(), &both.memory, &evicted);
    let failure = ended.memory.last_failure.as_ref().unwrap();
    assert_eq!((failure.reason.as_str(), ended.memory.restarts), ("Preempted", 0), "it does not count");
    assert_eq!(failure.message, "the attempt made room: its Job was suspended: preempted");
    assert_eq!(
        decide(&plan(), &ended.memory, &world(4)).actions,
        [Action::Create { attempt: 2 }],
        "and queues again"
    );
}

/// A person's `kubectl delete pod` has a grace of 15 s, which the next attempt need not wait for.
#[test]
fn a_long_grace_is_cut_short() {
    let mut world = with(1, [PodState::Running, ended(Reason::PodLost)], world(10));
    world.pods[1].grace = Some(15);
    world.pods[1].terminal = false;
    let decision = decide(&plan(), &running(1, 0), &world);
    assert!(
        decision
            .actions
            .contains(&Action::DeletePod { name: "u-0-1-1-1".to_owned(), uid: "uid-u-0-1-1-1".to_owned() })
    );
}

#[test]
fn the_most_telling_end_is_named() {
    use Reason::*;
    let cases = [
        ([PeerLost, OomKilled], (1, "OOMKilled")),
        ([PeerLost, Evicted], (1, "Evicted")),
        ([NonFinite, OomKilled], (0, "NonFinite")),
        ([Crashed, Crashed], (0, "Crashed")),
        ([Killed, PodLost], (0, "Killed")),
    ];
    for (reasons, (rank, want)) in cases {
        let decision = decide(&plan(), &running(1, 0), &with(1, reasons.map(ended), world(1)));
        let failure = decision.memory.last_failure.unwrap();
        assert_eq!((failure.rank, failure.reason.as_str()), (Some(rank), want));
    }
}

/// Ends one attempt after the other by `reason` until the unit fails; returns how many it took.
fn attempts_until_failed(reason: Reason, checkpoint: impl Fn(i64) -> i64, step: i64) -> (i64, Memory) {
    let mut memory = Memory::default();
    for now in 0..200 {
        let mut quiet = world(now * 100);
        quiet.checkpoint_step = checkpoint(memory.attempt);
        memory = decide(&plan(), &memory, &quiet).memory;
        if memory.outcome.is_some() {
            return (memory.attempt, memory);
        }
        let mut failing = with(memory.attempt, [PodState::Running, ended(reason)], world(now * 100 + 1));
        failing.checkpoint_step = checkpoint(memory.attempt);
        failing.step = memory.start_step + step;
        memory = decide(&plan(), &memory, &failing).memory;
    }
    panic!("never failed");
}

#[test]
fn who_is_to_blame_decides_how_often() {
    use Reason::*;
    for reason in [BadSpec, NonFinite, BadData, BadCheckpoint, Disk] {
        assert_eq!(attempts_until_failed(reason, |_| 0, 5).0, 1, "{reason:?}");
    }
    let (attempts, memory) = attempts_until_failed(OomKilled, |_| 0, 5);
    assert_eq!(attempts, 2);
    let message = memory.last_failure.unwrap().message;
    assert!(message.starts_with("worker 1 exceeded 1Gi; raise spec.workers.resources.memory"), "{message}");
    for reason in [Crashed, PeerLost] {
        assert_eq!(attempts_until_failed(reason, |_| 0, 5).0, 3, "{reason:?}");
    }
    // With a new checkpoint in each attempt only maxRestarts limits it.
    assert_eq!(attempts_until_failed(Crashed, |attempt| attempt * 10, 5).0, 6);
    // Kills are not the job's fault, but counted.
    for reason in [PodLost, Killed] {
        let (attempts, memory) = attempts_until_failed(reason, |_| 0, 5);
        assert_eq!(attempts, 6, "{reason:?}");
        assert!(memory.last_failure.unwrap().message.contains("maxRestarts 5 used up"));
    }
}

/// Of a replay: the next in the order is asked, whoever is to blame.
#[test]
fn what_is_tried_once_ends_with_its_first_attempt() {
    let once = Plan { attempts: Attempts::One, ..plan() };
    for reason in [Reason::PodLost, Reason::Evicted, Reason::OomKilled, Reason::NonFinite, Reason::EndedEarly]
    {
        let failed = with(1, [PodState::Running, ended(reason)], world(10));
        assert_eq!(
            decide(&once, &running(1, 20), &failed).memory.outcome,
            Some(Outcome::Failed),
            "{reason:?}"
        );
    }
    assert_eq!(
        decide(&plan(), &running(1, 20), &with(1, [PodState::Running, ended(Reason::PodLost)], world(10)))
            .memory
            .outcome,
        None
    );
    let mut done = with(1, [PodState::Done, PodState::Done], world(4));
    done.checkpoint_step = 100;
    let sealed = decide(&once, &running(1, 20), &done);
    assert_eq!(
        (sealed.memory.outcome, sealed.ready.message.as_str()),
        (Some(Outcome::Succeeded), "the replay is sealed")
    );
}

#[test]
fn evictions_are_free() {
    for reason in [Reason::Evicted, Reason::Preempted, Reason::NodeLost] {
        let decision =
            decide(&plan(), &running(1, 0), &with(1, [PodState::Running, ended(reason)], world(1)));
        assert_eq!((decision.memory.restarts, decision.memory.over), (0, true));
    }
}

#[test]
fn attempts_that_get_nowhere_wait_longer_and_longer() {
    assert_eq!([0, 1, 2, 3, 4, 8, 99].map(pause_of), [0, 0, 1, 2, 4, 64, 64]);
}

fn pause_of(barren: i64) -> i64 {
    let before = Memory { barren: barren - 1, ..running(1, 0) };
    let failing = with(1, [PodState::Running, ended(Reason::Evicted)], world(1));
    let after = decide(&plan(), &before, &failing).memory;
    after.not_before.unwrap().duration_since(at(1)).as_secs()
}

#[test]
fn a_pause_is_kept() {
    let memory = Memory { over: true, not_before: Some(at(10)), ..running(3, 0) };
    let early = decide(&plan(), &memory, &world(4));
    assert_eq!((early.actions.len(), early.wake), (0, Some(7)));
    assert_eq!(decide(&plan(), &memory, &world(10)).actions, [Action::Create { attempt: 4 }]);
}

#[test]
fn what_does_not_start_says_why_and_times_out() {
    let obstacle = Obstacle { reason: "ImagePullFailed", message: "image x is not there".to_owned() };
    let memory = Memory { ran: false, ..running(1, 0) };
    let stuck = |now| with(1, [PodState::Running, PodState::Waiting(Some(obstacle.clone()))], world(now));
    let early = decide(&plan(), &memory, &stuck(59));
    let scheduled = early.scheduled.unwrap();
    assert_eq!((scheduled.reason, scheduled.status), ("ImagePullFailed", false));
    assert_eq!(early.wake, Some(1));
    let late = decide(&plan(), &memory, &stuck(60));
    let failure = late.memory.last_failure.clone().unwrap();
    assert_eq!((late.phase, failure.reason.as_str()), ("Draining", "ScheduleTimeout"));
    assert_eq!(
        decide(&plan(), &late.memory, &world(61)).phase,
        "Failed",
        "only when nothing can run any more"
    );
    assert_eq!(failure.message, "1 of 2 workers ran after 60 s: image x is not there");

    let mut refused = world(5);
    refused.jobs = vec![Job { failed_create: Some("violates PodSecurity \"restricted\"".into()), ..job(1) }];
    assert_eq!(decide(&plan(), &memory, &refused).scheduled.unwrap().reason, "PodSecurityRejected");
}

/// No Job that could say why: its creation was refused.
#[test]
fn a_job_that_the_member_refuses_says_why_and_times_out() {
    let memory = Memory { created: false, ran: false, ..running(1, 0) };
    let refused = |now| World { refused_create: Some("denied by policy x".into()), ..world(now) };
    let early = decide(&plan(), &memory, &refused(5));
    assert_eq!(early.actions, [Action::Create { attempt: 1 }]);
    let scheduled = early.scheduled.unwrap();
    assert_eq!((scheduled.reason, scheduled.message.as_str()), ("Unschedulable", "denied by policy x"));
    let late = decide(&plan(), &memory, &refused(60)).memory.last_failure.unwrap();
    assert_eq!(late.message, "0 of 2 workers ran after 60 s: denied by policy x");
    let made = World { jobs: vec![job(1)], ..refused(5) };
    assert_eq!(decide(&plan(), &memory, &made).scheduled.unwrap().message, "0/2 workers run");
}

#[test]
fn stop_and_drain() {
    let both = || with(1, [PodState::Running, PodState::Running], world(9));
    let stop = decide(&plan(), &running(1, 0), &World { desired: Desired::Stop, ..both() });
    assert_eq!((stop.phase, stop.actions.len()), ("Draining", 3));
    assert_eq!(stop.released.as_ref().unwrap().reason, "PodsTerminating");
    assert_eq!(decide(&plan(), &stop.memory, &world(10)).phase, "Released");

    let drain = decide(&plan(), &running(1, 0), &World { desired: Desired::Drain, ..both() });
    assert_eq!((drain.phase, drain.actions.len(), drain.ready.status), ("Draining", 0, false));
    let ended = with(1, [PodState::Done, PodState::Done], World { desired: Desired::Drain, ..world(11) });
    let drained = decide(&plan(), &drain.memory, &ended);
    assert_eq!(drained.memory.outcome, Some(Outcome::Stopped));
    let starting = Memory { ran: false, ..running(1, 0) };
    let idle = with(1, [PodState::Waiting(None), PodState::Waiting(None)], world(9));
    let at_once = decide(&plan(), &starting, &World { desired: Desired::Drain, ..idle });
    assert_eq!(at_once.memory.outcome, Some(Outcome::Stopped), "no interval is under way");
}

#[test]
fn workers_that_end_early_are_no_success() {
    let decision = decide(&plan(), &running(1, 0), &with(1, [PodState::Done, PodState::Done], world(1)));
    let failure = decision.memory.last_failure.unwrap();
    assert_eq!((failure.reason.as_str(), decision.memory.outcome), ("EndedEarly", None));
}

#[test]
fn a_deleted_or_failed_job_ends_the_attempt() {
    let mut deleted = with(1, [PodState::Running, PodState::Running], world(1));
    deleted.jobs.clear();
    let decision = decide(&plan(), &running(1, 0), &deleted);
    assert_eq!(decision.memory.last_failure.unwrap().reason, "PodLost");
    let mut failed = with(1, [PodState::Running, PodState::Running], world(1));
    failed.pods.pop();
    failed.jobs[0].failed = Some("BackoffLimitExceeded".into());
    assert!(decide(&plan(), &running(1, 0), &failed).memory.over);
}

#[test]
fn nothing_is_lost_or_doubled_by_a_restart_of_the_agent() {
    // Between remembering the attempt and making its Job.
    let remembered = decide(&plan(), &Memory::default(), &world(0)).memory;
    let again = decide(&plan(), &remembered, &world(1));
    assert_eq!(again.actions, [Action::Create { attempt: 1 }]);
    assert_eq!(again.memory.attempt, 1);
    // The state directory is gone, the Job is not.
    let both = with(3, [PodState::Running, PodState::Running], world(1));
    let found = decide(&plan(), &Memory::default(), &both);
    assert_eq!((found.memory.attempt, found.phase, found.actions.len()), (3, "Running", 0));
    // Both are gone, the hub knows the number.
    let known = decide(&plan(), &Memory::default(), &World { known_attempt: 4, ..world(1) });
    assert_eq!(known.actions, [Action::Create { attempt: 5 }]);
    // A Job of an older attempt beside the current one goes.
    let mut two = with(2, [PodState::Running, PodState::Running], world(1));
    two.jobs.push(job(1));
    let decision = decide(&plan(), &running(2, 0), &two);
    assert_eq!(decision.actions.len(), 1);
    assert_eq!(decision.phase, "Running");
}

#[test]
fn a_unit_waits_for_room_and_ends_by_the_agents_own_reasons() {
    let full = World { waits_for: Some("waits for 2 idle workers".into()), ..world(0) };
    let queued = decide(&plan(), &Memory::default(), &full);
    assert_eq!((queued.phase, queued.actions.len()), ("Queued", 0));
    let stop = Stop { reason: "GraceExpired", message: "no word from the hub for 900 s".into() };
    let both = with(1, [PodState::Running, PodState::Running], World { stop: Some(stop), ..world(5) });
    let over = decide(&plan(), &running(1, 0), &both);
    assert_eq!((over.phase, over.ready.reason, over.actions.len()), ("Draining", "GraceExpired", 3));
}

/// The relay was told that a step is not finite: from then on the log decides, whatever becomes of the pods.
#[test]
fn a_failure_that_was_told_ends_the_unit_when_the_log_has_it() {
    use Standing::{Logged, Waits};
    let world = |standing, rank_0, rank_1| World {
        failed: Some(FailedStep { step: 7, standing }),
        jobs: vec![job(1)],
        pods: vec![pod(1, 0, rank_0), pod(1, 1, rank_1)],
        ..world(20)
    };
    let not_finite = || {
        let message = "step 7: the gradient norm is not finite".to_owned();
        PodState::Ended(End { reason: Reason::NonFinite, exit_code: Some(65), message })
    };
    let memory = running(1, 0);
    let outcome = |world: &World| decide(&plan(), &memory, world).memory.outcome;
    for (rank_0, rank_1) in [
        (PodState::Running, PodState::Running),
        (PodState::Running, not_finite()),
        (not_finite(), PodState::Running),
        (ended(Reason::Killed), ended(Reason::NodeLost)),
    ] {
        let waits = decide(&plan(), &memory, &world(Waits, rank_0, rank_1));
        assert_eq!((waits.memory.outcome, waits.memory.over), (None, false));
        assert_eq!(waits.actions, []);
    }
    assert_eq!(
        outcome(&world(Logged, PodState::Running, not_finite())),
        None,
        "its last words are waited for"
    );
    let told = decide(&plan(), &memory, &world(Logged, not_finite(), PodState::Running)).memory;
    assert_eq!(told.outcome, Some(Outcome::Failed));
    let failure = told.last_failure.unwrap();
    assert_eq!((failure.reason.as_str(), failure.exit_code, failure.rank), ("NonFinite", Some(65), Some(0)));
    assert!(failure.message.contains("the gradient norm"), "{}", failure.message);
    // Its pods are lost, and nobody need find it once more.
    for rank_0 in [ended(Reason::Killed), ended(Reason::PodLost)] {
        let told = decide(&plan(), &memory, &world(Logged, rank_0, PodState::Running)).memory;
        let failure = told.last_failure.unwrap();
        assert_eq!((told.outcome, failure.exit_code), (Some(Outcome::Failed), Some(65)));
        assert!(failure.message.contains("step 7 is not finite"), "{}", failure.message);
    }
    let gone = World { pods: vec![], jobs: vec![], ..world(Logged, PodState::Running, PodState::Running) };
    assert_eq!(outcome(&gone), Some(Outcome::Failed));
    // A replay that comes to it has done what it was asked.
    let replay = Plan { attempts: Attempts::One, ..plan() };
    let sealed = decide(&replay, &memory, &world(Logged, not_finite(), PodState::Running));
    assert_eq!(sealed.memory.outcome, Some(Outcome::Succeeded));
    let stopped = World { desired: Desired::Stop, ..world(Waits, PodState::Running, PodState::Running) };
    assert_eq!(outcome(&stopped), Some(Outcome::Stopped));
}

#[test]
fn a_crash_loop_inside_the_pods_ends_the_attempt() {
    let both = with(1, [PodState::Running, PodState::Running], world(5));
    let looping = World { crash_loop: Some("worker processes died 5 times in a row".into()), ..both };
    let failure = decide(&plan(), &running(1, 0), &looping).memory.last_failure.unwrap();
    assert_eq!(failure.reason, "Crashed");
}

#[test]
fn ends_are_classified() {
    use Reason::*;
    let exit = |exit_code, reason| Some(Container { exit_code, reason, message: "" });
    let cases = [
        (None, None, false, exit(0, "Completed"), None),
        (None, None, true, exit(0, "Completed"), None),
        (None, None, false, exit(64, "Error"), Some(BadSpec)),
        (None, None, false, exit(65, "Error"), Some(NonFinite)),
        (None, None, false, exit(66, "Error"), Some(BadData)),
        (None, None, false, exit(67, "Error"), Some(BadCheckpoint)),
        (None, None, false, exit(74, "Error"), Some(Disk)),
        (None, None, false, exit(69, "Error"), Some(PeerLost)),
        (None, None, false, exit(137, "OOMKilled"), Some(OomKilled)),
        (None, None, false, exit(137, "Error"), Some(Killed)),
        (None, None, false, exit(143, "Error"), Some(Killed)),
        (None, None, false, exit(101, "Error"), Some(Crashed)),
        (None, None, true, exit(143, "Error"), Some(PodLost)),
        (None, None, true, exit(65, "Error"), Some(NonFinite)),
        (None, None, true, None, Some(PodLost)),
        (Some("PreemptionByScheduler"), None, true, exit(143, "Error"), Some(Preempted)),
        (Some("EvictionByEvictionAPI"), None, true, None, Some(Evicted)),
        (Some("TerminationByKubelet"), Some("Evicted"), false, exit(137, "Error"), Some(Evicted)),
        (Some("DeletionByTaintManager"), None, true, None, Some(NodeLost)),
        (None, Some("Evicted"), false, None, Some(Evicted)),
        (None, Some("OutOfcpu"), false, None, Some(Evicted)),
        (None, Some("NodeShutdown"), false, None, Some(NodeLost)),
    ];
    for (disruption, pod, deleting, container, want) in cases {
        let got = classify(disruption, pod, deleting, container);
        assert_eq!(got, want, "{disruption:?} {pod:?} {deleting} {container:?}");
    }
}
