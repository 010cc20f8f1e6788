//! The pods of a unit that goes on as another one, after a restore of the hub.
use muster_core::envelope::seal;
use muster_core::recovery::Anew;
use muster_proof::key::SigningKey;

use super::*;
use crate::agent::units::Handed;

const NEW: &str = "4f2a9c1b-0-1001";

/// Lets [`NEW`] go on where [`UNIT`] is.
async fn hand_over(agent: &Agent) {
    let old = agent.unit();
    old.update(|state| state.memory.created = true).await.unwrap();
    let before = old.state().await.payload.unwrap();
    let payload = before.continued(Anew {
        name: NEW.to_owned(),
        epoch: 1001,
        incarnation: 2,
        not_after: before.not_after,
        start: None,
        grant: Digest::of(b"grant of 1001"),
        start_record: before.start_record,
    });
    let envelope = seal(&payload, &SigningKey::generate([1; 32]).unwrap()).unwrap();
    let heir = agent.units.ensure(NEW);
    heir.update(|state| state.uid = "v".to_owned()).await.unwrap();
    let handed = agent.units.hand_over(&old, &heir, &payload, &envelope).await.unwrap();
    assert_eq!(handed, Handed::Over);
    assert_eq!(agent.units.hand_over(&old, &heir, &payload, &envelope).await.unwrap(), Handed::Never, "once");
}

#[tokio::test]
async fn its_pods_keep_their_round_and_its_key_over_a_restart_too() {
    let (world, agent) = World::new().await;
    let (first, _) = tokio::join!(agent.join("pod-0", 1, 1000), agent.join("pod-1", 1, 1001));
    let before: Joined = json(first).await;
    let manifest = agent.make(20).await;
    hand_over(&agent).await;

    let assignment: Assignment = json(agent.get("pod-1", "/v1/rounds/1").await).await;
    let named = (assignment.unit.as_str(), assignment.attempt, assignment.rank);
    assert_eq!(named, (UNIT, 1, 1), "an attempt has one name to its end");
    let again: Joined = json(agent.join("pod-1", 1, 1001).await).await;
    assert_eq!(again, before);
    // Its commit was of another grant, and the log does not have it: it is signed anew.
    assert!(agent.units.get(NEW).unwrap().state().await.checkpoints.is_empty());
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    let steps = agent.units.get(NEW).unwrap().state().await.checkpoints;
    assert_eq!(steps.iter().map(|commit| commit.step).collect::<Vec<_>>(), [20]);
    world.pods.add("pod-2", UNIT, 1, 1);
    assert_eq!(agent.get("pod-2", "/v1/rounds/1").await.status(), StatusCode::FORBIDDEN, "one pod of a rank");

    // The old unit's object goes, and the agent starts again.
    agent.units.forget(UNIT).unwrap();
    agent.shutdown.trigger();
    let agent = world.start().await;
    let again: Joined = json(agent.join("pod-0", 1, 1000).await).await;
    assert_eq!(again, before);
    // The next attempt is the new unit's own.
    let unit = agent.units.get(NEW).unwrap();
    unit.update(|state| state.memory.attempt = 2).await.unwrap();
    assert_eq!(agent.get("pod-0", "/v1/rounds/1").await.status(), StatusCode::GONE);
    world.pods.add("pod-3", NEW, 2, 0);
    let next: Assignment = json(agent.get("pod-3", "/v1/rounds/1").await).await;
    assert_eq!((next.unit.as_str(), next.attempt, next.start.map(|start| start.step)), (NEW, 2, Some(20)));
}

/// What the log does not have of the old unit it will never take: terms have changed, and the pod signs anew.
#[tokio::test]
async fn commits_wait_while_the_hub_does_not_count_the_unit_and_are_signed_anew_for_the_new_one() {
    let (world, agent) = World::new().await;
    agent.make(20).await;
    agent.uploads(&world, agent.unit());
    agent.durable(&agent.unit(), 20).await;
    let durable = agent.unit().state().await.checkpoints[0].record;
    agent.unit().update(|state| state.orphaned = Some(jiff::Timestamp::now())).await.unwrap();
    let manifest = agent.make(40).await;
    let void = agent.notice("pod-0", 40, &manifest, &key(7)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.hub.records(), ["key-binding", "commit", "step 20"]);
    assert!(agent.unit().state().await.superseded.is_none());

    hand_over(&agent).await;
    let heir = agent.units.get(NEW).unwrap();
    assert_eq!(heir.state().await.checkpoints.iter().map(|commit| commit.step).collect::<Vec<_>>(), [20]);
    agent.uploads(&world, heir.clone());
    let answer = agent.say("pod-0", &void).await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    assert_eq!(answer.json::<Conflict>().await.unwrap(), Conflict::TermsChanged {});
    let terms: Terms = json(agent.terms("pod-0", 40).await).await;
    assert_eq!((terms.epoch.get(), terms.interval.get(), terms.previous), (1001, 1, durable));
    assert_eq!(agent.commit("pod-0", 40, &manifest).await.status(), StatusCode::ACCEPTED);
    agent.durable(&heir, 40).await;
    let want = ["key-binding", "commit", "step 20", "key-binding", "commit", "step 40"];
    assert_eq!(world.hub.records(), want, "the key is bound for the new grant, too");
    // What the log has of the old unit is still found, and stays when that one is forgotten.
    let again: Terms = json(agent.terms("pod-0", 20).await).await;
    assert_eq!((again.epoch.get(), again.last_step.get()), (1, 20));
    assert!(heir.committed_at(20).await.unwrap().is_some());
}
