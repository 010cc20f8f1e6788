//! What ends pods when little is known, or nothing can be remembered.
use muster_core::attempt::Outcome;

use super::scene::{Clusters, listed, member};
use super::*;
use crate::agent::before_join;

/// An agent whose unit runs.
async fn running(policy: &str) -> (World, Clusters, Arc<Unit>) {
    running_at(policy, member()).await
}

async fn running_at(
    policy: &str,
    (clusters, client): (Clusters, kube::Client),
) -> (World, Clusters, Arc<Unit>) {
    let world = World::over(policy, client).await;
    world.controller.view.show(&[listed(&payload(), &world.key)]);
    let unit = world.controller.units.ensure(&payload().name);
    for _ in 0..4 {
        world.controller.turn(&unit, Told::Nothing).await.unwrap();
    }
    assert!(unit.state().await.memory.ran);
    (world, clusters, unit)
}

fn left(clusters: &Clusters) -> usize {
    let cluster = locked(clusters);
    cluster.jobs.len() + cluster.pods.len()
}

/// A state volume that is full or read-only.
struct Full<'a>(&'a World);

impl<'a> Full<'a> {
    fn new(world: &'a World) -> Self {
        std::fs::rename(world.dir.path().join("units"), world.dir.path().join("away")).unwrap();
        Self(world)
    }

    fn mend(self) {
        std::fs::rename(self.0.dir.path().join("away"), self.0.dir.path().join("units")).unwrap();
    }
}

#[tokio::test]
async fn pods_that_must_end_do_not_wait_for_room_on_the_disk() {
    // The provider's word, and the hub's.
    for by_hub in [false, true] {
        let (world, clusters, unit) = running("offer: {workers: 2}").await;
        let disk = Full::new(&world);
        if by_hub {
            let mut object = listed(&payload(), &world.key);
            object.spec.desired = api::Desired::Stop;
            world.controller.view.show(&[object]);
        } else {
            switch::stop(world.dir.path()).unwrap();
            world.switch.look();
        }
        let said = unit.wanted.borrow().clone();
        let error = world.controller.turn(&unit, Told::Nothing).await.err().unwrap();
        assert!(matches!(error, turn::TurnError::State(_)), "{error}");
        assert_eq!(left(&clusters), 0, "by the hub: {by_hub}");
        assert!(world.controller.turn(&unit, Told::Nothing).await.is_err());
        // What is not remembered is not told.
        assert_eq!((unit.state().await.memory.outcome, unit.wanted.borrow().clone()), (None, said));
        disk.mend();
        world.controller.turn(&unit, Told::Nothing).await.unwrap();
        let outcome = if by_hub { Outcome::Stopped } else { Outcome::Failed };
        assert_eq!(unit.state().await.memory.outcome, Some(outcome));
        assert_eq!(locked(&clusters).deleted.len(), 3, "each once");
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_else_is_done() {
    let (world, clusters, unit) = running("offer: {workers: 2}").await;
    let disk = Full::new(&world);
    locked(&clusters).pods.clear();
    locked(&clusters).jobs.clear();
    assert!(world.controller.turn(&unit, Told::Nothing).await.is_err());
    assert_eq!(
        (left(&clusters), unit.state().await.memory.attempt),
        (0, 1),
        "no attempt that is not remembered"
    );
    disk.mend();
    world.controller.turn(&unit, Told::Nothing).await.unwrap();
    assert_eq!(unit.state().await.memory.attempt, 2);
}

/// An agent that has lost its state, beside workers that an earlier one has started. The hub does not say what they are.
async fn forgetful() -> (World, Clusters, Arc<Unit>) {
    let (clusters, client) = member();
    let (before, _, _) = running_at("offer: {workers: 2}", (clusters.clone(), client.clone())).await;
    drop(before);
    let world = World::over("offer: {workers: 2}", client).await;
    let unit = world.controller.units.ensure(&payload().name);
    world.controller.turn(&unit, Told::Nothing).await.unwrap();
    assert_eq!(left(&clusters), 3, "nothing is stopped by who only does not know");
    (world, clusters, unit)
}

#[tokio::test]
async fn pods_of_a_unit_that_is_not_known_end_when_lending_is_stopped() {
    let (world, clusters, unit) = forgetful().await;
    switch::stop(world.dir.path()).unwrap();
    world.switch.look();
    world.controller.turn(&unit, Told::Nothing).await.unwrap();
    assert_eq!(left(&clusters), 0);

    let (world, clusters, unit) = forgetful().await;
    world.gateway.change(|hub| hub.refuses = Some((403, "Revoked")));
    world.controller.session.learn(&world.controller.session.heartbeat().await.unwrap_err());
    world.controller.turn(&unit, Told::Nothing).await.unwrap();
    assert_eq!(left(&clusters), 0);
}

/// The hub's list is there, and whether the unit is good cannot be said: its signer is not known, and nobody answers.
#[tokio::test]
async fn nor_do_they_wait_for_a_verdict() {
    let (world, clusters, unit) = forgetful().await;
    let stranger = SigningKey::generate([2; 32]).unwrap();
    world.controller.view.show(&[listed(&payload(), &stranger)]);
    switch::stop(world.dir.path()).unwrap();
    world.switch.look();
    world.controller.turn(&unit, Told::Nothing).await.unwrap();
    assert_eq!((left(&clusters), unit.state().await.refused), (0, None));
}

#[tokio::test]
async fn pods_of_a_unit_that_nobody_knows_have_a_grace() {
    let (world, clusters, unit) = forgetful().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(890)).await;
    tokio::time::resume();
    world.controller.turn(&unit, Told::Nothing).await.unwrap();
    assert_eq!(left(&clusters), 3);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::time::resume();
    world.controller.turn(&unit, Told::Nothing).await.unwrap();
    assert_eq!(left(&clusters), 0);
}

#[tokio::test]
async fn the_off_switch_holds_before_the_join() {
    let (world, clusters, _) = running("offer: {workers: 2}").await;
    let (_, client) = scene::member_of(clusters.clone());
    let member = Member::to_end(client, "muster-lent");
    before_join::obey(&member, &world.controller.policies).await;
    assert_eq!(left(&clusters), 3);
    switch::stop(world.dir.path()).unwrap();
    world.switch.look();
    before_join::obey(&member, &world.controller.policies).await;
    assert_eq!(left(&clusters), 0);
}
