//! The audits of a job over a real log: hub, auditors and trainer, without clusters and without training.
mod api;
mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use muster_api::v1alpha1::{
    AuditPhase, AuditVerdict, AuditorState, Desired, FaultKind, JobCheckpoint, WorkUnitKind,
};
use muster_core::audits::Rollback;
use serde_json::json;
use world::{JOB, World, hub, not_finite, right, wrong};

use super::Audits;
use crate::hub::job::gather;

#[tokio::test]
async fn an_honest_job_is_drawn_replayed_and_settled() {
    let mut world = World::new(&["east", "west", "north"]).await;
    assert!(world.ctx.audits.of(JOB).is_none(), "nobody has looked");
    world.pass().await;
    let before = world.book();
    assert!(!before.settled && !before.training_ended && before.drawn == 0);
    world.train("east", right(40)).await;
    world.pass().await;
    let asked = world.units();
    assert!(!asked.is_empty() && asked.iter().all(|(provider, _)| provider != "east"));
    let (_, unit) = &asked[0];
    assert_eq!(unit.spec.kind, WorkUnitKind::Audit);
    assert_eq!(unit.metadata.labels.as_ref().unwrap()["app.kubernetes.io/component"], "audit");
    assert!(unit.metadata.finalizers.as_ref().is_some_and(|list| !list.is_empty()));
    let replaying = world.objects();
    assert!(
        replaying.iter().any(|audit| audit.status.as_ref().unwrap().phase == Some(AuditPhase::Replaying))
    );
    let open = world.book();
    assert!(open.training_ended && open.open > 0 && open.open == open.drawn);
    assert!(open.pinned.contains(&20), "the last interval is replayed from there: {:?}", open.pinned);
    assert!(!open.pinned_manifests.is_empty());

    let audits = world.settle().await;
    assert!(audits.drawn >= 2 && audits.matched == audits.drawn && audits.open == 0 && audits.faults == 0);
    assert_eq!((audits.path.len(), audits.path[1].last, audits.path[1].state_root), (2, 40, right(40)));
    assert!(audits.pinned.is_empty() && audits.convicted.is_empty() && audits.rollback.is_none());
    for audit in world.objects() {
        let status = audit.status.as_ref().unwrap();
        assert_eq!((status.phase, status.verdict), (Some(AuditPhase::Concluded), Some(AuditVerdict::Match)));
        assert_eq!(World::condition(&audit, "Concluded"), "True Match");
        assert_eq!(audit.spec.subject, "east");
        assert!(status.completion_time.is_some() && status.log_index.is_some());
        let owner = &audit.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("TrainingJob", JOB));
    }
    assert!(world.units().iter().all(|(_, unit)| unit.spec.desired == Desired::Stop), "nobody needs them");
    assert_eq!(world.ctx.follower.record("east").unwrap().faults, 0);
    assert_eq!(world.ctx.follower.record("east").unwrap().standing.intervals, 2);
    assert!(world.ctx.follower.record("nobody").is_none());
}

#[tokio::test]
async fn a_wrong_state_is_found_rolled_back_and_run_again_elsewhere() {
    let mut world = World::new(&["east", "west", "north"]).await;
    world.train("east", wrong(40)).await;
    for _ in 0..20 {
        world.pass().await;
        if world.book().rollback.is_some() {
            break;
        }
        world.members().await;
    }
    let audits = world.book();
    let Some(Rollback { epoch, step, provider, interval, verdict_index, .. }) = audits.rollback.clone()
    else {
        panic!("{audits:?}")
    };
    assert_eq!((epoch, step, provider.as_deref(), interval), (2, 20, Some("east"), 1));
    assert_eq!(audits.convicted, ["east".to_owned()].into());
    assert!(audits.faults >= 1 && !audits.settled && !audits.training_ended, "{audits:?}");
    assert!(audits.pinned.contains(&20), "the job goes on from there");
    assert_eq!(audits.path.len(), 1);
    let found = world.objects();
    let fault =
        found.iter().find(|it| it.status.as_ref().unwrap().verdict == Some(AuditVerdict::Fault)).unwrap();
    let status = fault.status.as_ref().unwrap();
    let grounds = status.fault.as_ref().unwrap();
    assert_eq!((grounds.kind, grounds.party.as_str()), (FaultKind::Replays, "east"));
    assert_eq!(status.log_index, Some(verdict_index as i64));
    assert_eq!(World::condition(fault, "Concluded"), "True Fault");
    assert_eq!(world.ctx.follower.record("east").unwrap().faults, 1, "one fault, whatever draws hit it");

    // Another provider runs the interval again.
    let (record, manifest) = (audits.path[0].record, audits.path[0].manifest.unwrap());
    let start = muster_api::v1alpha1::JobCheckpoint {
        step: 20,
        state_root: right(20).to_string(),
        manifest: manifest.to_string(),
        log_index: None,
    };
    assert_eq!(world.grant(2, "west", Some(&start)).await, record);
    let (record, newest) = world.commit((2, "west"), 1, record, right(40)).await;
    world.end_again(record, &newest).await;
    world.hub_auditor(1);
    world.pass().await;
    world.hub_auditor(2);
    for _ in 0..20 {
        world.pass().await;
        world.members().await;
        world.hub_replays().await;
    }
    world.pass().await;
    let audits = world.book();
    assert!(audits.settled, "{audits:?}");
    assert_eq!((audits.path[1].epoch, audits.path[1].state_root), (2, right(40)));
    assert_eq!(audits.convicted, ["east".to_owned()].into(), "nobody who was honest");
    assert_eq!(audits.rollback.as_ref().map(|back| back.verdict_index), Some(verdict_index));
}

/// All is replayed and shown, and of three owners one looks: nobody is judged, and the job is not verified, before a second does.
#[tokio::test]
async fn a_verdict_waits_for_the_owners_witnesses() {
    let mut world = World::new(&["east", "west", "north"]).await;
    world.train("east", right(40)).await;
    *world.log.awake.lock().unwrap() = ["east".to_owned()].into();
    for _ in 0..10 {
        world.pass().await;
        world.members().await;
    }
    let audits = world.book();
    assert!(audits.training_ended && audits.drawn >= 2 && audits.open == audits.drawn, "{audits:?}");
    let newest = world.ctx.follower.witnessed().newest.unwrap();
    assert_eq!((newest.owners, newest.cosigned, newest.needed()), (3, 1, 2));
    world.log.awake.lock().unwrap().insert("west".to_owned());
    let audits = world.settle().await;
    assert!(audits.matched == audits.drawn && audits.open == 0, "{audits:?}");
}

/// A failure stands in its interval's place: whoever replays finds the same, and does not know before.
#[tokio::test]
async fn a_step_that_is_not_finite_is_believed_when_replays_find_the_same() {
    let mut world = World::new(&["east", "west", "north"]).await;
    let newest = world.fail((1, "east")).await;
    world.says.values_mut().for_each(|says| *says = not_finite);
    world.pass().await;
    let before = world.book();
    let failure = before.failure.as_ref().unwrap();
    assert_eq!((failure.step, failure.matched, before.training_ended), (33, false, false));
    assert!(before.pinned.contains(&20), "its replays start from there");
    let payloads = world.units().into_iter().map(|(_, unit)| gather::payload(&unit).unwrap().audit.unwrap());
    assert!(payloads.clone().any(|audit| audit.interval == 1), "it is drawn before the job's end is logged");
    assert!(payloads.filter(|audit| audit.interval == 1).all(|audit| audit.last_step == 40));
    world.end(&newest).await.unwrap();
    let audits = world.settle().await;
    assert!(audits.failure.as_ref().is_some_and(|failure| failure.matched), "{audits:?}");
    assert_eq!((audits.faults, audits.path.len(), audits.path[1].manifest), (0, 2, None));
}

/// A provider that would like to be rid of a job, or its tenant of it.
#[tokio::test]
async fn a_false_failure_is_a_fault_and_the_job_goes_on() {
    let mut world = World::new(&["east", "west", "north"]).await;
    let newest = world.fail((1, "east")).await;
    world.end(&newest).await.unwrap();
    for _ in 0..20 {
        world.pass().await;
        if world.book().rollback.is_some() {
            break;
        }
        world.members().await;
    }
    let audits = world.book();
    let back = audits.rollback.as_ref().unwrap();
    assert_eq!((back.step, back.interval, back.provider.as_deref()), (20, 1, Some("east")));
    assert_eq!((audits.failure.clone(), audits.training_ended, audits.path.len()), (None, false, 1));
    let start = JobCheckpoint { log_index: None, ..newest };
    world.grant(back.epoch, "west", Some(&start)).await;
}

#[tokio::test]
async fn who_declines_is_followed_by_the_next() {
    let mut world = World::new(&["east", "west", "north"]).await;
    world.train("east", right(40)).await;
    world.pass().await;
    let asked = world.units();
    for (_, unit) in &asked {
        world.unit_status(unit, json!({"phase": "Refused", "attempt": 0}));
    }
    world.pass().await;
    let all = world.units();
    assert!(all.len() > asked.len(), "somebody else is asked");
    let object =
        world.objects().into_iter().find(|it| it.status.as_ref().unwrap().auditors.len() == 2).unwrap();
    let auditors = object.status.unwrap().auditors;
    assert_eq!((auditors[0].state, auditors[1].state), (AuditorState::Replaced, AuditorState::Asked));
    assert_eq!(object.spec.auditor.as_deref(), Some(auditors[1].auditor.as_str()));
    assert_ne!(auditors[0].auditor, auditors[1].auditor);
}

#[tokio::test]
async fn who_is_silent_is_followed_by_the_hub_and_without_it_the_job_waits_in_words() {
    let mut world = World::with(&["east", "west"], json!({"tier": "Gold"}), Duration::ZERO).await;
    world.says.remove("west");
    world.train("east", right(40)).await;
    for _ in 0..4 {
        world.pass().await;
    }
    let why = world.book().no_auditor.clone().unwrap();
    assert!(why.starts_with("0 eligible auditors: ") && why.ends_with("auditor is not up"), "{why}");
    let waits =
        world.objects().into_iter().any(|it| World::condition(&it, "Assigned") == "True AuditorChosen");
    assert!(waits, "it was asked");
    // An old Lease is no auditor, a renewed one is.
    world.hub_auditor(1);
    world.pass().await;
    assert!(!world.ctx.audits.has_hub_auditor());
    world.hub_auditor(2);
    // The hub's auditor has time, and so have the openings.
    world.audits = Audits::new(world::HOUR);
    world.pass().await;
    world.hub_auditor(3);
    world.pass().await;
    assert!(world.ctx.audits.has_hub_auditor());
}

#[tokio::test]
async fn nobody_but_the_listed_is_asked_and_nobody_who_does_not_want_to() {
    let assurance = json!({"tier": "Gold", "auditors": ["north", "south"]});
    let mut world = World::with(&["east", "west", "north", "south"], assurance, world::HOUR).await;
    world.report("south", json!({"audits": "Never"}));
    world.train("east", right(40)).await;
    world.pass().await;
    let asked = world.units();
    assert!(!asked.is_empty() && asked.iter().all(|(provider, _)| provider == "north"));
    // And if that one does not want to either.
    let mut world =
        World::with(&["east", "west", "north"], json!({"tier": "Gold", "auditors": ["north"]}), world::HOUR)
            .await;
    world.report("north", json!({"audits": "Never"}));
    world.train("east", right(40)).await;
    world.pass().await;
    assert!(world.units().is_empty());
    let why = world.book().no_auditor.clone().unwrap();
    assert_eq!(
        why,
        "0 eligible auditors: 2 not in assurance.auditors, 1 replay nothing; the hub's own auditor is not up"
    );
}

#[tokio::test]
async fn a_hub_that_starts_anew_goes_on_and_does_nothing_twice() {
    let mut world = World::new(&["east", "west", "north"]).await;
    world.train("east", right(40)).await;
    world.pass().await;
    let (records, units) = (world.log.size(), world.units().len());
    let (ctx, _) = hub(&world.dir, Some(world.log.clone()), &world.api).await;
    for provider in ["east", "west", "north"] {
        crate::hub::ledger::testing::log_key(&ctx, provider, &format!("owner-of-{provider}")).await;
    }
    world.ctx = ctx;
    world.audits = Audits::new(world::HOUR);
    let writes = world.api.writes.load(Ordering::SeqCst);
    world.pass().await;
    assert_eq!((world.log.size(), world.units().len()), (records, units));
    assert_eq!(world.api.writes.load(Ordering::SeqCst), writes, "nothing has changed, so nothing is written");
    assert!(world.settle().await.settled);
    let writes = world.api.writes.load(Ordering::SeqCst);
    world.pass().await;
    assert_eq!(world.api.writes.load(Ordering::SeqCst), writes, "a settled job is left alone");
}

#[tokio::test]
async fn a_log_that_cannot_be_believed_is_not_audited_by() {
    let mut world = World::new(&["east", "west", "north"]).await;
    world.train("east", right(40)).await;
    world.settle().await;
    let records = world.log.size();
    *world.log.head.lock().unwrap() = Some(b"another hub\n7\nAAAA\n\n- nobody\n".to_vec());
    let error = world.audits.pass(&world.ctx, &[&world.job]).await.unwrap_err();
    assert!(error.to_string().contains("cannot be believed"), "{error}");
    let book = world.book();
    assert!(!book.settled, "a job must not succeed by it");
    assert!(book.no_auditor.as_ref().unwrap().contains("its head"), "{book:?}");
    assert!(world.ctx.follower.broken().is_some());
    assert_eq!(world.log.size(), records);
    // Out of reach is another thing: what was known stands.
    *world.log.head.lock().unwrap() = None;
    world.log.down.store(true, Ordering::SeqCst);
    assert!(world.audits.pass(&world.ctx, &[&world.job]).await.is_err());
    assert!(world.ctx.follower.broken().is_some(), "and mends nothing");
    world.log.down.store(false, Ordering::SeqCst);
    world.pass().await;
    assert!(world.book().settled && world.ctx.follower.broken().is_none());
}

#[tokio::test]
async fn how_long_an_interval_takes_is_what_was_seen_live() {
    let mut world = World::new(&["east", "west", "north"]).await;
    let id = world.names.id;
    let start = world.grant(1, "east", None).await;
    world.pass().await;
    assert_eq!(world.ctx.follower.pace(&id), None);
    let (first, _) = world.commit((1, "east"), 0, start, right(20)).await;
    world.pass().await;
    let pace = world.ctx.follower.pace(&id).unwrap();
    assert!(pace < world::HOUR);
    world.commit((1, "east"), 1, first, right(40)).await;
    // A hub that reads all of it at once has seen nothing live.
    let (ctx, _) = hub(&world.dir, Some(world.log.clone()), &world.api).await;
    ctx.follower.advance(&ctx.ledger).await.unwrap();
    assert_eq!(ctx.follower.pace(&id), None);
    assert_eq!(ctx.follower.notes(&id).unwrap().manifests.len(), 2);
}

#[tokio::test]
async fn a_job_keeps_all_faults_and_the_last_of_the_rest() {
    use muster_proof::records::VerdictKind;
    let mut world = World::new(&["east", "west", "north"]).await;
    world.train("east", right(40)).await;
    world.settle().await;
    let audits = world.ctx.follower.with(|history| history.audits(world.names.id).unwrap()).unwrap();
    let like = |index: u64, kind: Option<VerdictKind>| {
        let mut audit = audits[0].clone();
        audit.index = index;
        match kind {
            Some(kind) => audit.verdict.as_mut().unwrap().kind = kind,
            None => audit.verdict = None,
        }
        audit
    };
    let mut all = vec![like(0, Some(VerdictKind::Fault)), like(1, None)];
    all.extend((2..62).map(|index| like(index, Some(VerdictKind::Match))));
    let kept: Vec<u64> = super::object::kept(&all).iter().map(|audit| audit.index).collect();
    let want: Vec<u64> = [0, 1].into_iter().chain(12..62).collect();
    assert_eq!(kept, want);
}

#[tokio::test]
async fn a_job_without_a_tier_is_left_alone() {
    let mut world = World::with(&["east", "west"], json!({"tier": "None"}), world::HOUR).await;
    world.train("east", right(40)).await;
    let records = world.log.size();
    world.pass().await;
    assert!(world.ctx.audits.of(JOB).is_none() && world.units().is_empty());
    assert_eq!(world.log.size(), records);
}
