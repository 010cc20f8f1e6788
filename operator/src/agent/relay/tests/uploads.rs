//! How commits reach the log.
use muster_core::envelope::Payload;

use super::*;
use crate::agent::state::Commit;

#[tokio::test]
async fn the_next_round_starts_from_the_newest_commit_even_if_the_hub_is_down() {
    let (world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    agent.reads_spec("pod-0").await;
    world.hub.down.store(true, Ordering::SeqCst);
    let uploading = agent.uploads(&world, agent.unit());
    let _: Assignment = json(agent.get("pod-0", "/v1/rounds/1").await).await;
    let manifest = agent.upload(20, training).await;
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    let same: Assignment = json(agent.get("pod-1", "/v1/rounds/1").await).await;
    assert_eq!(same.start, None, "the round's start is fixed");
    let next: Assignment = json(agent.get("pod-1", "/v1/rounds/2").await).await;
    assert_eq!(next.start.map(|start| (start.step, start.manifest)), Some((20, manifest)));
    let (_, blobs) = checkpoint(20, training);
    for blob in &blobs {
        assert_eq!(agent.blob("pod-1", &Digest::of(blob)).await.status(), StatusCode::OK);
    }
    assert_eq!(*agent.unit().durable.borrow(), 0);
    // The hub is back: it gets everything, and the pod hears of it.
    world.hub.down.store(false, Ordering::SeqCst);
    let unit = agent.unit();
    let mut durable = unit.durable.subscribe();
    tokio::time::timeout(Duration::from_secs(30), durable.wait_for(|step| *step == 20))
        .await
        .unwrap()
        .unwrap();
    for blob in &blobs {
        assert!(locked(&world.hub.blobs).contains_key(&Digest::of(blob)));
    }
    assert_eq!(locked(&world.hub.commits).get(&20), Some(&manifest));
    let (model, signer) = locked(&world.hub.models).remove(&20).unwrap();
    assert_eq!(&signer, key(7).public());
    let parsed = Manifest::parse(blobs.last().unwrap()).unwrap();
    muster_trainer::checkpoint::check_signed(&model, &parsed, &manifest, key(7).public()).unwrap();
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::OK);
    agent.shutdown.trigger();
    uploading.await.unwrap();
}

#[tokio::test]
async fn a_superseded_unit_uploads_no_more_and_wakes_its_controller() {
    let (world, agent) = World::new().await;
    world.hub.superseded.store(true, Ordering::SeqCst);
    agent.uploads(&world, agent.unit());
    agent.make(20).await;
    let unit = agent.unit();
    for _ in 0..100 {
        if unit.state().await.superseded.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(unit.state().await.superseded.unwrap().contains("epoch 2"));
    assert_eq!(*unit.durable.borrow(), 0, "that its bytes are at the hub is not enough");
    // The controller is woken: by the commit, and by this.
    tokio::time::timeout(Duration::from_secs(5), unit.wake.notified()).await.unwrap();
    assert!(locked(&world.hub.commits).is_empty());
}

/// A rollback ends the grant; so does the hub, which then gives another.
#[tokio::test]
async fn a_unit_whose_grant_has_ended_uploads_no_more() {
    let (world, agent) = World::new().await;
    locked(&world.hub.refuses).push_back("GrantEnded");
    agent.uploads(&world, agent.unit());
    agent.make(20).await;
    let unit = agent.unit();
    for _ in 0..200 {
        if unit.state().await.superseded.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(unit.state().await.superseded.unwrap().contains("GrantEnded"));
    assert!(locked(&world.hub.commits).is_empty());
}

/// The pause does not grow while the job's audits are waited for: they take as long as they take.
#[tokio::test]
async fn a_commit_that_must_wait_for_verdicts_is_tried_again_soon() {
    let (world, agent) = World::new().await;
    locked(&world.hub.refuses).extend(["AwaitsVerdicts", "WindowFull"]);
    agent.uploads(&world, agent.unit());
    let begun = tokio::time::Instant::now();
    let manifest = agent.make(20).await;
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED, "its pod waits");
    agent.durable(&agent.unit(), 20).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(agent.unit().state().await.superseded, None);
}

#[tokio::test]
async fn old_checkpoints_leave_the_cache() {
    let (world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    agent.uploads(&world, agent.unit());
    let unit = agent.unit();
    let mut durable = unit.durable.subscribe();
    for step in [20, 40, 60] {
        let manifest = agent.upload(step, training).await;
        agent.commit("pod-0", step, &manifest).await;
        let reached = durable.wait_for(|durable| *durable == step as i64);
        tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap().unwrap();
    }
    let steps: Vec<i64> = unit.state().await.checkpoints.iter().map(|commit| commit.step).collect();
    assert_eq!(steps, [40, 60], "keepLast is 2");
    let (_, first) = checkpoint(20, training);
    for _ in 0..50 {
        if agent.blobs.size(&Digest::of(&first[0])).await.unwrap().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for blob in first {
        assert_eq!(agent.blobs.size(&Digest::of(&blob)).await.unwrap(), None);
        assert!(locked(&world.hub.blobs).contains_key(&Digest::of(&blob)), "the hub keeps its own");
    }
    assert!(unit.committed_at(20).await.unwrap().is_some(), "an audit may ask for its records");
    assert!(locked(&world.hub.calls).iter().any(|call| call == "step 60"));
}

/// Each commit names the one before it, so they go up in their order; before the first goes the key that signed them.
#[tokio::test]
async fn commits_go_up_oldest_first_and_after_their_key() {
    let (world, agent) = World::new().await;
    agent.reads_spec("pod-0").await;
    world.hub.down.store(true, Ordering::SeqCst);
    agent.uploads(&world, agent.unit());
    let mut manifests = Vec::new();
    for step in [20, 40, 60] {
        manifests.push(agent.make(step).await);
    }
    let steps = |state: &UnitState| state.checkpoints.iter().map(|commit| commit.step).collect::<Vec<_>>();
    assert_eq!(steps(&agent.unit().state().await), [20, 40, 60], "nothing is given up, whatever keepLast is");
    world.hub.down.store(false, Ordering::SeqCst);
    agent.unit().committed.notify_one();
    agent.durable(&agent.unit(), 60).await;
    let want = ["key-binding", "commit", "step 20", "commit", "step 40", "commit", "step 60"];
    assert_eq!(world.hub.records(), want);
    assert_eq!(steps(&agent.unit().state().await), [40, 60]);
    for (step, manifest) in [20, 40, 60].into_iter().zip(&manifests) {
        assert_eq!(agent.commit("pod-0", step, manifest).await.status(), StatusCode::OK, "step {step}");
    }
    // Another attempt has another key, and the log gets that too.
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    let manifest = agent.upload(80, training).await;
    agent.unit().update(|state| state.memory.attempt = 2).await.unwrap();
    world.pods.add("pod-2", UNIT, 2, 0);
    let binding = binding::bind(&key(8), "pod-2").unwrap();
    assert_eq!(agent.bind("pod-2", &binding).await.status(), StatusCode::CREATED);
    let notice = agent.notice("pod-2", 80, &manifest, &key(8)).await;
    assert_eq!(agent.say("pod-2", &notice).await.status(), StatusCode::ACCEPTED);
    agent.durable(&agent.unit(), 80).await;
    assert_eq!(world.hub.records()[7..], ["key-binding", "commit", "step 80"]);
    assert_eq!(agent.unit().state().await.bindings.len(), 1, "of the attempt that may still commit");
}

/// The agent starts again before the log has anything: it goes on with what is on its disk.
#[tokio::test]
async fn what_waits_goes_up_after_a_restart() {
    let (world, agent) = World::new().await;
    agent.make(20).await;
    agent.make(40).await;
    agent.shutdown.trigger();
    let agent = world.start().await;
    agent.uploads(&world, agent.unit());
    agent.durable(&agent.unit(), 40).await;
    assert_eq!(world.hub.records(), ["key-binding", "commit", "step 20", "commit", "step 40"]);
    let records = agent.unit().committed_at(20).await.unwrap().unwrap().records;
    assert_eq!((records.len(), records[0].step, records[19].loss.number()), (20, 1, 20.0));
}

#[tokio::test]
async fn what_the_hub_read_back_otherwise_is_sent_again() {
    let (world, agent) = World::new().await;
    locked(&world.hub.refuses).push_back("WrongStateRoot");
    agent.uploads(&world, agent.unit());
    let manifest = agent.make(20).await;
    agent.durable(&agent.unit(), 20).await;
    let calls = locked(&world.hub.calls).clone();
    let puts = |digest: &Digest| calls.iter().filter(|call| **call == format!("put {digest}")).count();
    assert_eq!(puts(&manifest), 2);
    let (_, blobs) = checkpoint(20, agent.unit().state().await.payload.unwrap().training_digest);
    assert!(blobs.iter().all(|blob| puts(&Digest::of(blob)) == 2));
}

/// Whether the grant is over the commit's answer says: a refused binding alone ends nothing.
#[tokio::test]
async fn a_refused_binding_leaves_the_word_to_the_commit() {
    let (world, agent) = World::new().await;
    world.hub.refuses_records.store(true, Ordering::SeqCst);
    world.hub.superseded.store(true, Ordering::SeqCst);
    agent.uploads(&world, agent.unit());
    agent.make(20).await;
    for _ in 0..100 {
        if agent.unit().state().await.superseded.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(agent.unit().state().await.superseded.is_some());
}

#[tokio::test]
async fn no_more_are_taken_while_many_wait() {
    let (world, agent) = World::new().await;
    let digest = Digest::of(b"x");
    let waiting = |step: i64| Commit {
        step,
        manifest: digest,
        state_root: digest,
        record: Digest::of(&step.to_le_bytes()),
        attempt: 1,
        durable: false,
        ends: false,
    };
    let unit = agent.unit();
    unit.update(|state| {
        let payload = state.payload.clone().unwrap();
        state.payload = Some(Payload { steps: 10_000, ..payload });
        state.checkpoints = (1..=256).map(|interval| waiting(20 * interval)).collect();
    })
    .await
    .unwrap();
    let training = unit.state().await.payload.unwrap().training_digest;
    let manifest = agent.upload(5140, training).await;
    let answer = agent.commit("pod-0", 5140, &manifest).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("Busy"));
    // The log takes one.
    unit.update(|state| state.checkpoints[0].durable = true).await.unwrap();
    assert_eq!(agent.commit("pod-0", 5140, &manifest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(agent.commit("pod-0", 5140, &manifest).await.status(), StatusCode::ACCEPTED, "and again");
    assert!(locked(&world.hub.calls).is_empty());
}
