//! What becomes of a unit when its image or its tenant is lent to no more.
use super::*;

fn withdrawn(world: World) -> World {
    let stop = Stop { reason: "ImageNotAllowed", message: "image t is not allowed here".to_owned() };
    World { withdrawn: Some(stop), ..world }
}

fn ends(memory: &Memory, world: World) -> bool {
    let decision = decide(&plan(), memory, &withdrawn(world));
    let is_over = decision.memory.outcome == Some(Outcome::Failed);
    if is_over {
        assert_eq!(decision.memory.last_failure.unwrap().reason, "ImageNotAllowed");
    }
    assert!(!decision.actions.iter().any(|action| matches!(action, Action::Create { .. })));
    is_over
}

#[test]
fn nothing_more_is_started_of_a_unit_that_is_lent_to_no_more() {
    assert!(ends(&Memory::default(), world(0)), "it has not begun");
    let full = World { waits_for: Some("waits for 2 idle workers".to_owned()), ..world(0) };
    assert!(ends(&Memory::default(), full), "it need not wait for that");
    assert!(ends(&Memory { over: true, ..running(1, 0) }, world(9)), "between two attempts");
    let killed = with(1, [PodState::Running, ended(Reason::Killed)], world(10));
    assert!(ends(&running(1, 0), killed), "its attempt has just ended");
    let unmade = Memory { created: false, ran: false, ..running(1, 0) };
    assert!(ends(&unmade, world(1)), "the member has not taken its Job");
    let queued = World { jobs: vec![Job { suspended: Some("queued".to_owned()), ..job(1) }], ..world(1) };
    assert!(ends(&Memory { ran: false, ..running(1, 0) }, queued), "its Job waits in Kueue");
}

#[test]
fn what_runs_goes_on() {
    let both = with(1, [PodState::Running, PodState::Running], world(9));
    assert!(!ends(&running(1, 0), both));
    let starts = with(1, [PodState::Waiting(None), PodState::Waiting(None)], world(9));
    assert!(!ends(&Memory { ran: false, ..running(1, 0) }, starts));
    let mut done = with(1, [PodState::Done, PodState::Done], world(9));
    done.checkpoint_step = 100;
    assert!(!ends(&running(1, 0), done), "and has its success");
}
