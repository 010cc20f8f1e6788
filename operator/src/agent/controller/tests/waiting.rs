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
    assert_eq!(scheduled(&units[1]), "waits for 2 idle workers, 0 are");
}

/// What is said of its start.
fn scheduled(unit: &Unit) -> String {
    let wanted = unit.wanted.borrow().clone().unwrap();
    wanted.conditions.into_iter().find(|(kind, _)| *kind == "Scheduled").unwrap().1.message
}

/// The provider writes another policy.
fn lend(world: &World, policy: &str) {
    std::fs::write(world.dir.path().join("policy.yaml"), policy).unwrap();
    assert!(world.controller.policies.reread());
}

/// A window of an hour, half a day from now.
fn closed_now() -> String {
    let at = |hours| {
        let then = Timestamp::now().checked_add(jiff::SignedDuration::from_hours(hours)).unwrap();
        then.strftime("%H:%M").to_string()
    };
    let (from, to) = (at(12), at(13));
    format!(
        "offer: {{workers: 2, calendar: [{{days: [Mon, Tue, Wed, Thu, Fri, Sat, Sun], from: '{from}', to: '{to}'}}]}}"
    )
}

#[tokio::test]
async fn a_unit_that_waited_does_not_begin_when_the_calendar_has_closed() {
    let (clusters, client) = member();
    let world = World::over("offer: {workers: 2}", client).await;
    let units = taken(&world, &[&payload()]).await;
    let images = format!("images: ['{}']", payload().image);
    lend(&world, &format!("{images}\n{}", closed_now()));
    world.controller.turn(&units[0], Told::Nothing).await.unwrap();
    assert_eq!(locked(&clusters).jobs.len(), 0);
    assert!(
        scheduled(&units[0]).starts_with("waits: the provider lends again from"),
        "{}",
        scheduled(&units[0])
    );
    // What has begun goes on, also after an attempt that failed.
    lend(&world, &format!("{images}\noffer: {{workers: 2}}"));
    world.controller.turn(&units[0], Told::Nothing).await.unwrap();
    lend(&world, &format!("{images}\n{}", closed_now()));
    world.controller.turn(&units[0], Told::Nothing).await.unwrap();
    let (jobs, pods) = {
        let mut cluster = locked(&clusters);
        (std::mem::take(&mut cluster.jobs).len(), std::mem::take(&mut cluster.pods).len())
    };
    assert_eq!((jobs, pods), (1, 2));
    world.controller.turn(&units[0], Told::Nothing).await.unwrap();
    assert_eq!(locked(&clusters).jobs.len(), 1);
    assert_eq!(units[0].state().await.memory.attempt, 2);
}

#[tokio::test]
async fn no_attempt_begins_with_an_image_or_for_a_tenant_that_is_lent_to_no_more() {
    let other = payload().image.replace("muster-trainer", "another");
    for (policy, reason) in [
        (format!("images: ['{other}']\noffer: {{workers: 2}}"), "ImageNotAllowed"),
        (
            format!("images: ['{}']\ntenants: [team-b]\noffer: {{workers: 2}}", payload().image),
            "TenantNotAllowed",
        ),
    ] {
        let (clusters, client) = member();
        let world = World::over("offer: {workers: 2}", client).await;
        let units = taken(&world, &[&payload()]).await;
        lend(&world, &policy);
        world.controller.turn(&units[0], Told::Nothing).await.unwrap();
        assert_eq!(locked(&clusters).jobs.len(), 0, "{reason}");
        let failure = units[0].state().await.memory.last_failure.unwrap();
        assert_eq!(failure.reason, reason);
        let wanted = units[0].wanted.borrow().clone().unwrap();
        assert_eq!(wanted.phase, api::WorkUnitPhase::Failed, "so that the hub places it anew");
    }
}

#[tokio::test]
async fn a_job_that_the_member_refuses_says_why() {
    let (clusters, client) = member();
    let world = World::over("offer: {workers: 2}", client).await;
    let units = taken(&world, &[&payload()]).await;
    let denied = "admission webhook \"owner.example\" denied the request: no Jobs by night";
    locked(&clusters).refuses.extend([denied; 2]);
    for _ in 0..2 {
        assert!(world.controller.turn(&units[0], Told::Nothing).await.is_err());
    }
    assert_eq!(scheduled(&units[0]), format!("the member has not taken the Job: {denied}"));
    for _ in 0..3 {
        world.controller.turn(&units[0], Told::Nothing).await.unwrap();
    }
    assert_eq!(scheduled(&units[0]), "2/2 workers");
}
