//! Units that wait for what is lent, or for the member.
use super::scene::member;
use super::*;

/// Units that are taken and have not begun.
async fn taken(world: &World, payloads: &[&Payload]) -> Vec<Arc<Unit>> {
    let mut units = Vec::new();
    for payload in payloads {
        let unit = world.controller.units.ensure(&payload.name);
        unit.update(|state| state.payload = Some((*payload).clone())).await.unwrap();
        units.push(unit);
    }
    units
}

#[tokio::test]
async fn two_units_that_come_together_do_not_take_the_same_workers() {
    let (clusters, client) = member();
    let world = World::over("offer: {workers: 2}", client).await;
    let (one, two) =
        (payload(), Payload { name: "77777777-0-1".to_owned(), job_uid: "7".to_owned(), ..payload() });
    let units = taken(&world, &[&one, &two]).await;
    let states = (units[0].state().await, units[1].state().await);
    let nothing = || (Told::Nothing, Vec::new(), Vec::new());
    let first = world.controller.attend(&units[0], None, states.0, &one, nothing());
    let second = world.controller.attend(&units[1], None, states.1, &two, nothing());
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(locked(&clusters).jobs.len(), 1);
    let waits = units[1].wanted.borrow().clone().unwrap();
    let waits = waits.conditions.into_iter().find(|(kind, _)| *kind == "Scheduled").unwrap().1;
    assert_eq!(waits.message, "waits for 2 idle workers, 0 are");
}
