//! Replays: what their pods are told and may read, and what becomes of what they find.
use muster_core::envelope::{CheckpointRef, Payload};
use muster_proof::records::{AuditOpening, Payload as _};

use super::*;
use crate::agent::testing::audit;

/// The replay of steps 21..=40 by two workers, and the checkpoint that it starts from, at the hub.
pub(super) async fn replaying() -> (World, Agent, Digest) {
    let (world, agent) = World::new().await;
    let known = agent.unit().state().await.payload.unwrap();
    let (manifest, blobs) = checkpoint(20, known.training_digest);
    for blob in &blobs {
        world.hub.insert(blob);
    }
    let start = Some(CheckpointRef { step: 20, manifest });
    let payload = Payload { spec: known.spec, dataset: known.dataset, start, ..audit() };
    let (name, uid) = (payload.name.clone(), "audit".to_owned());
    for (pod, rank) in [("audit-0", 0), ("audit-1", 1)] {
        world.pods.add(pod, &name, 1, rank);
    }
    let unit = agent.units.ensure(&name);
    unit.update(|state| {
        *state = UnitState { uid, payload: Some(payload), ..UnitState::default() };
        state.memory.attempt = 1;
        super::super::rounds::bind(state, 0, &key(7).public().to_pem().unwrap());
    })
    .await
    .unwrap();
    (world, agent, manifest)
}

impl Agent {
    fn audit(&self) -> Arc<Unit> {
        self.units.get(&audit().name).unwrap()
    }

    /// Puts and announces what the replay has made.
    async fn replayed(&self) -> (Digest, Vec<Vec<u8>>, Response) {
        let (manifest, blobs) = checkpoint(40, audit().training_digest);
        for bytes in &blobs {
            assert!(self.put("audit-0", &Digest::of(bytes), bytes).await.is_success());
        }
        let said = self.commit("audit-0", 40, &manifest).await;
        (manifest, blobs, said)
    }
}

#[tokio::test]
async fn its_pods_are_told_one_interval() {
    let (_world, agent, manifest) = replaying().await;
    let assigned: Assignment = json(agent.get("audit-1", "/v1/rounds/1").await).await;
    assert_eq!(assigned.start.map(|start| (start.step, start.manifest)), Some((20, manifest)));
    assert_eq!((assigned.rank, assigned.interval_steps), (1, 20));
    let terms: Terms = json(agent.terms("audit-0", 40).await).await;
    assert_eq!((terms.epoch.get(), terms.interval.get()), (1, 1), "those of the commit that is audited");
    assert_eq!((terms.first_step.get(), terms.last_step.get()), (21, 40));
    assert_eq!(terms.previous, audit().start_record);
    for step in [20, 60, 100, 39] {
        assert_eq!(agent.terms("audit-0", step).await.status(), StatusCode::BAD_REQUEST, "{step}");
    }
    let beyond = json!({"step": 41, "loss": "1", "tokensPerSecond": 1});
    let answer = agent.ask("audit-0", Method::POST, "/v1/progress", Some(beyond)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

/// Sealed in the log, and nothing else of it is anywhere: no blob, no commit, no key.
#[tokio::test]
async fn what_it_finds_is_sealed_and_nothing_is_uploaded() {
    let (world, agent, _) = replaying().await;
    let (before, unit) = (locked(&world.hub.blobs).len(), agent.audit());
    let (made, blobs, said) = agent.replayed().await;
    assert_eq!(said.status(), StatusCode::ACCEPTED);
    assert_eq!(unit.state().await.bindings.len(), 0);
    agent.uploads(&world, unit.clone());
    agent.durable(&unit, 40).await;
    assert_eq!(world.hub.records(), ["audit-seal"]);
    assert_eq!((locked(&world.hub.blobs).len(), locked(&world.hub.commits).len()), (before, 0));
    let again = agent.commit("audit-0", 40, &made).await;
    assert_eq!(again.status(), StatusCode::OK, "now its pod may end");
    // What was found can be opened, and is what the pod said.
    let assignment = audit().audit.unwrap().assignment;
    let opening = agent.answers.audit_opening(&assignment).unwrap();
    let opening = AuditOpening::from_payload(opening.unverified_payload()).unwrap();
    let terms: Terms = json(agent.terms("audit-0", 40).await).await;
    assert_eq!((opening.state_root, opening.record_root), (Digest::of(b"state"), records(&terms).root()));
    // What it started from stays while it lives, what it has made does not.
    let state = unit.state().await;
    assert_eq!((state.checkpoint_step(), state.start()), (40, state.payload.unwrap().start));
    for blob in &blobs {
        for _ in 0..100 {
            if agent.blobs.size(&Digest::of(blob)).await.unwrap().is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(agent.blobs.size(&Digest::of(blob)).await.unwrap(), None);
    }
}

/// The agent is killed after the pod was told that its state is taken, and before the log has the seal.
#[tokio::test]
async fn a_restart_seals_what_was_found_before() {
    let (world, agent, _) = replaying().await;
    agent.reads_spec("audit-0").await;
    world.hub.down.store(true, Ordering::SeqCst);
    let (.., said) = agent.replayed().await;
    assert_eq!(said.status(), StatusCode::ACCEPTED);
    let assignment = audit().audit.unwrap().assignment;
    let sealed = agent.answers.seal(&assignment).unwrap().record_id();
    agent.shutdown.trigger();
    world.hub.down.store(false, Ordering::SeqCst);
    let agent = world.start().await;
    agent.uploads(&world, agent.audit());
    agent.durable(&agent.audit(), 40).await;
    assert_eq!(agent.answers.seal(&assignment).unwrap().record_id(), sealed);
    assert_eq!(world.hub.records(), ["audit-seal"]);
}

#[tokio::test]
async fn a_replay_that_nobody_waits_for_ends() {
    let (world, agent, _) = replaying().await;
    locked(&world.hub.refuses_seals).extend(["Unavailable", "Replaced"]);
    let unit = agent.audit();
    agent.uploads(&world, unit.clone());
    agent.replayed().await;
    for _ in 0..200 {
        if unit.state().await.superseded.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(unit.state().await.superseded.unwrap().contains("Replaced"));
    assert_eq!((*unit.durable.borrow(), world.hub.records().len()), (0, 0));
}

/// Signed with another key, of another state than its manifest, with records that are not its steps'; and, once it is taken,
/// with another result.
#[tokio::test]
async fn what_a_pod_says_of_a_replay_is_checked_as_ever() {
    let (_world, agent, _) = replaying().await;
    let (manifest, blobs) = checkpoint(40, audit().training_digest);
    let early = agent.notice("audit-0", 40, &manifest, &key(7)).await;
    assert_eq!(agent.say("audit-0", &early).await.status(), StatusCode::CONFLICT, "no blobs");
    for bytes in &blobs {
        agent.put("audit-0", &Digest::of(bytes), bytes).await;
    }
    let good = agent.notice("audit-0", 40, &manifest, &key(7)).await;
    let forged = agent.notice("audit-0", 40, &manifest, &key(8)).await;
    assert_eq!(agent.say("audit-0", &forged).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(agent.say("audit-1", &good).await.status(), StatusCode::FORBIDDEN, "rank 1");
    let mut other = good.clone();
    other.state_root = Digest::of(b"other state");
    assert_eq!(agent.say("audit-0", &other).await.status(), StatusCode::BAD_REQUEST);
    let mut other = good.clone();
    other.records[3].loss = Bits::of(0.0);
    assert_eq!(agent.say("audit-0", &other).await.status(), StatusCode::BAD_REQUEST);
    let assignment = audit().audit.unwrap().assignment;
    assert!(agent.answers.seal(&assignment).is_err(), "nothing was kept of all that");
    assert_eq!(agent.say("audit-0", &good).await.status(), StatusCode::ACCEPTED);
    assert_eq!(agent.say("audit-0", &good).await.status(), StatusCode::ACCEPTED);
    let kept = agent.answers.seal(&assignment).unwrap();
    // As if the unit's own file were lost: what was found before stands.
    agent.audit().update(|state| state.checkpoints.clear()).await.unwrap();
    let terms: Terms = json(agent.terms("audit-0", 40).await).await;
    let mut records = records(&terms).as_slice().to_vec();
    records[0].loss = Bits::of(9.0);
    let records = Records::new(21, records).unwrap();
    let model = agent.model(&manifest, &key(7)).await;
    let other = commit::sign(&terms, &records, reached(manifest, b"state"), model, &key(7)).unwrap();
    let answer = agent.say("audit-0", &other).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("not reproducible"));
    assert_eq!(agent.answers.seal(&assignment).unwrap(), kept);
}

/// Every commit that the log gets can be opened later, also after its unit is gone.
#[tokio::test]
async fn what_opens_a_commit_outlives_its_unit() {
    let (world, agent) = World::new().await;
    let unit = agent.unit();
    agent.make(20).await;
    let record = unit.state().await.checkpoints[0].record;
    let terms: Terms = json(agent.terms("pod-0", 20).await).await;
    agent.units.forget(UNIT).unwrap();
    unit.forget_committed([UNIT]).unwrap();
    let agent = world.start().await;
    let opening = agent.answers.opening(&record).unwrap();
    let it = muster_proof::records::Opening::from_payload(opening.unverified_payload()).unwrap();
    let root = records(&terms).root();
    assert_eq!((it.commit, it.record_root, it.salt), (record, root, terms.salt));
}
