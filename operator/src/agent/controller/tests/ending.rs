//! What ends pods when little is known, or nothing can be remembered.
use muster_core::attempt::Outcome;

use super::scene::{Clusters, listed, member};
use super::*;

/// An agent whose unit runs.
async fn running(policy: &str) -> (World, Clusters, Arc<Unit>) {
    let (clusters, client) = member();
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
