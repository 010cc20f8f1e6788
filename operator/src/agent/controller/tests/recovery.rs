//! A restored hub that has forgotten a unit which runs: turn by turn, with a member and a hub in memory.
use muster_api::v1alpha1::WorkUnitPhase;
use muster_core::attempt::Outcome;
use muster_core::envelope::CheckpointRef;
use muster_core::recovery::Anew;
use muster_proof::Digest;
use serde_json::json;

use super::scene::{Clusters, listed, member};
use super::*;
use crate::agent::heartbeat::Pulse;
use crate::agent::state::Commit;
use crate::wire::gateway::Recovered;

const OLD: &str = "4f2a9c1b-0-1";
const NEW: &str = "4f2a9c1b-0-1001";

/// An agent with [`OLD`] running, and a hub that is about to be restored.
struct Scene {
    world: World,
    clusters: Clusters,
}

impl Scene {
    async fn new(old: &Payload) -> Self {
        let (clusters, client) = member();
        let world = World::over("offer: {workers: 2}", client).await;
        let scene = Self { world, clusters };
        scene.world.controller.view.show(&[scene.object(old)]);
        for _ in 0..4 {
            scene.turn(OLD).await;
        }
        let commit = |step: i64, durable| Commit {
            step,
            manifest: Digest::of(&step.to_le_bytes()),
            state_root: Digest::of(b"root"),
            record: Digest::of(&[step as u8]),
            attempt: 1,
            durable,
            ends: false,
        };
        let unit = scene.unit(OLD);
        unit.update(|state| {
            rounds::begin(state, 0);
            state.checkpoints = vec![commit(20, true), commit(40, false), commit(60, false)];
        })
        .await
        .unwrap();
        let state = unit.state().await;
        assert!(state.memory.ran && state.memory.attempt == 1, "{state:?}");
        scene
    }

    fn object(&self, payload: &Payload) -> WorkUnit {
        listed(payload, &self.world.key)
    }

    fn unit(&self, name: &str) -> Arc<Unit> {
        self.world.controller.units.ensure(name)
    }

    async fn turn(&self, name: &str) {
        self.world.controller.turn(&self.unit(name), Told::Nothing).await.unwrap();
    }

    /// As the agent that starts again.
    fn restart(&mut self) {
        let units = Units::open(StateDir::open(self.world.dir.path()).unwrap()).unwrap();
        let (view, fence) = (Arc::default(), Fence::open(self.world.dir.path()).unwrap());
        let before = &*self.world.controller;
        let controller = Controller {
            provider: before.provider.clone(),
            policies: before.policies.clone(),
            trusted: before.trusted.clone(),
            fence: Arc::new(fence),
            session: before.session.clone(),
            witness: before.witness.clone(),
            units: Arc::new(units),
            view,
            hub: before.hub.clone(),
            member: before.member.clone(),
            contact: before.contact.clone(),
            blobs: before.blobs.clone(),
            kept: before.kept.clone(),
            hub_blobs: before.hub_blobs.clone(),
            answers: before.answers.clone(),
            shutdown: before.shutdown.clone(),
            running: Mutex::default(),
        };
        self.world.controller = Arc::new(controller);
    }

    /// The restored hub's heartbeat, and what it says to offers.
    async fn beat(&self, recovered: Recovered) {
        self.world.gateway.change(|hub| {
            (hub.beat.incarnation, hub.beat.min_epoch, hub.recovered) = (2, 1001, recovered);
        });
        let controller = &self.world.controller;
        let pulse = Pulse {
            log_size: tokio::sync::watch::Sender::new(0),
            session: controller.session.clone(),
            fence: controller.fence.clone(),
            keys: controller.trusted.clone(),
            units: controller.units.clone(),
            contact: controller.contact.clone(),
            reported: Arc::default(),
        };
        pulse.beat().await.unwrap();
    }

    fn offers(&self) -> Vec<(usize, bool)> {
        let hub = locked(&self.world.gateway.hub);
        hub.offers.iter().map(|offer| (offer.units.len(), offer.complete)).collect()
    }

    fn touched(&self) -> (Vec<String>, usize) {
        let cluster = locked(&self.clusters);
        (cluster.deleted.clone(), cluster.jobs.len())
    }

    async fn outcome(&self, name: &str) -> Option<(Outcome, String)> {
        let memory = self.unit(name).state().await.memory;
        memory.outcome.map(|outcome| (outcome, memory.last_failure.map_or(String::new(), |f| f.reason)))
    }
}

fn continued(old: &Payload, step: i64) -> Payload {
    old.continued(Anew {
        name: NEW.to_owned(),
        epoch: 1001,
        incarnation: 2,
        not_after: old.not_after,
        start: Some(CheckpointRef { step, manifest: Digest::of(&step.to_le_bytes()) }),
        grant: Digest::of(b"grant of 1001"),
        start_record: Digest::of(b"commit of the start"),
    })
}

const UNTOUCHED: (Vec<String>, usize) = (Vec::new(), 1);

#[tokio::test]
async fn a_forgotten_unit_trains_on_and_is_continued_without_a_touch_of_its_pods() {
    let mut scene = Scene::new(&payload()).await;
    // 1. The list lacks it, the API says NotFound, and nobody has heard of a restore yet.
    scene.world.controller.view.show(&[]);
    scene.turn(OLD).await;
    assert!(scene.unit(OLD).state().await.orphaned.is_some());
    // 2. The restore is heard of; the hub does not say anything yet. The agent starts again in between.
    scene.beat(Recovered::Wait).await;
    scene.turn(OLD).await;
    scene.restart();
    scene.world.controller.view.show(&[]);
    scene.turn(OLD).await;
    scene.beat(Recovered::As(NEW.to_owned())).await;
    scene.beat(Recovered::Stop).await;
    assert_eq!(scene.offers(), [(1, true), (1, true), (0, true)], "offered until it is answered");
    let offered = locked(&scene.world.gateway.hub).offers[0].units[0].clone();
    let key = scene.world.key.public().clone();
    assert_eq!(muster_core::envelope::open(&offered, &[key]).unwrap(), payload());
    scene.turn(OLD).await;
    assert_eq!((scene.outcome(OLD).await, scene.touched()), (None, UNTOUCHED));
    // 3. It comes back under another name. Of its checkpoints the hub had more than it could say.
    let before = scene.unit(OLD).state().await;
    scene.world.controller.view.show(&[scene.object(&continued(&payload(), 40))]);
    scene.turn(NEW).await;
    let state = scene.unit(NEW).state().await;
    assert_eq!((state.memory, state.earlier.clone()), (before.memory.clone(), vec![OLD.to_owned()]));
    assert_eq!(state.rounds, before.rounds, "who asks again hears the same");
    let durable: Vec<_> = state.checkpoints.iter().map(|commit| (commit.step, commit.durable)).collect();
    assert_eq!(durable, [(20, true), (40, true)]);
    assert_eq!(scene.world.controller.units.serving(OLD).await.unwrap().name(), NEW);
    // 4. Nobody looks after the old name any more: not when it goes, not when a watch names it once more, and not the
    //    agent that starts again.
    scene.turn(OLD).await;
    scene.turn(OLD).await;
    scene.turn(NEW).await;
    scene.restart();
    scene.world.controller.view.show(&[scene.object(&continued(&payload(), 40))]);
    scene.turn(OLD).await;
    scene.turn(NEW).await;
    assert_eq!((scene.outcome(NEW).await, scene.touched()), (None, UNTOUCHED));
    let wanted = scene.unit(NEW).wanted.borrow().clone().unwrap();
    assert_eq!(wanted.phase, WorkUnitPhase::Running);
    // 5. The next attempt is made under the new name.
    let ended = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    locked(&scene.clusters).pods[1]["status"]["containerStatuses"][0]["state"] = ended;
    for _ in 0..4 {
        scene.turn(NEW).await;
    }
    let (deleted, jobs) = scene.touched();
    assert_eq!((deleted[0].as_str(), jobs), ("4f2a9c1b-0-1-1", 1));
    assert_eq!(locked(&scene.clusters).jobs[0]["metadata"]["name"], json!(format!("{NEW}-2")));
}

#[tokio::test]
async fn the_hubs_stop_ends_a_unit_and_so_does_its_grace() {
    let scene = Scene::new(&payload()).await;
    scene.beat(Recovered::Stop).await;
    scene.turn(OLD).await;
    assert_eq!(scene.outcome(OLD).await, Some((Outcome::Failed, "Superseded".to_owned())));
    assert!(!scene.touched().0.is_empty());

    let scene = Scene::new(&payload()).await;
    scene.beat(Recovered::Wait).await;
    let long_ago = Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(901)).unwrap();
    scene.unit(OLD).update(|state| state.orphaned = Some(long_ago)).await.unwrap();
    scene.turn(OLD).await;
    assert_eq!(scene.outcome(OLD).await, Some((Outcome::Failed, "GraceExpired".to_owned())));
}

#[tokio::test]
async fn a_continuation_that_fits_nothing_here_starts_as_any_unit() {
    let scene = Scene::new(&payload()).await;
    scene.beat(Recovered::Wait).await;
    let other = Payload { workers: 1, ..continued(&payload(), 40) };
    let mut object = scene.object(&other);
    object.spec.workers = 1;
    scene.world.controller.view.show(&[object]);
    scene.turn(NEW).await;
    let state = scene.unit(NEW).state().await;
    assert!(state.earlier.is_empty() && state.memory.attempt <= 1, "{state:?}");
    // The island has a newer unit here.
    scene.turn(OLD).await;
    assert_eq!(scene.outcome(OLD).await, Some((Outcome::Failed, "Superseded".to_owned())));
}

#[tokio::test]
async fn a_job_that_is_just_being_made_is_not_handed_over() {
    let scene = Scene::new(&payload()).await;
    scene.unit(OLD).update(|state| state.memory.created = false).await.unwrap();
    scene.world.controller.view.show(&[scene.object(&continued(&payload(), 40))]);
    scene.turn(NEW).await;
    assert!(scene.unit(NEW).state().await.payload.is_none());
    scene.turn(OLD).await;
    scene.turn(NEW).await;
    assert_eq!(scene.unit(NEW).state().await.earlier, [OLD]);
    assert_eq!(scene.touched(), UNTOUCHED);
}
