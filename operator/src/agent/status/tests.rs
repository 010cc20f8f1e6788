//! What is written of a unit, and of which object.
use std::sync::Mutex;

use axum::extract::{Request, State};
use axum::{Json, Router};
use muster_core::attempt::{Failure, Memory};
use muster_proof::Digest;

use super::*;
use crate::agent::state::{Commit, StateDir};
use crate::agent::units::{Units, locked};

/// UIDs of two objects that have had the same name.
const FIRST: &str = "0b5c6f0e-0000-4000-8000-000000000001";
const SECOND: &str = "0b5c6f0e-0000-4000-8000-000000000002";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn wanted(phase: WorkUnitPhase, ready: bool) -> Wanted {
    let condition =
        attempt::Condition { status: ready, reason: "Training", message: "2/2 workers".to_owned() };
    Wanted { uid: FIRST.to_owned(), generation: Some(1), phase, conditions: vec![("Ready", condition)] }
}

fn progress(step: i64) -> Progress {
    let (loss, eval_loss) = ("2.5".to_owned(), (step >= 20).then(|| "2.25".to_owned()));
    Progress { attempt: 1, step, loss, eval_loss, tokens_per_second: 9, time: at(100) }
}

fn commit(step: i64) -> Commit {
    let digest = Digest::of(b"m");
    let (manifest, state_root, record) = (digest, digest, digest);
    Commit { step, manifest, state_root, record, attempt: 1, durable: true, ends: false }
}

#[test]
fn nothing_goes_back_and_nothing_is_written_twice() {
    let mut state = UnitState {
        memory: Memory { attempt: 2, ..Memory::default() },
        checkpoints: vec![commit(20)],
        ..UnitState::default()
    };
    let running = wanted(WorkUnitPhase::Running, true);
    let first = compose(&WorkUnitStatus::default(), &running, &state, Some(&progress(25)), at(100));
    assert_eq!((first.step, first.attempt), (Some(25), Some(2)));
    assert_eq!(first.eval_loss.as_deref(), Some("2.25"));
    // A pod that has not evaluated yet.
    let next = Progress { eval_loss: None, ..progress(26) };
    let next = compose(&first, &running, &state, Some(&next), at(100));
    assert_eq!((next.step, next.eval_loss), (Some(26), first.eval_loss.clone()));
    assert_eq!(first.checkpoint.as_ref().unwrap().step, 20);
    let again = compose(&first, &running, &state, Some(&progress(25)), at(200));
    assert!(difference(Some(&first), &again).is_empty());
    // A lost state directory, a new round from an older checkpoint.
    state.memory.attempt = 0;
    state.checkpoints.clear();
    let later = compose(&first, &running, &state, Some(&progress(21)), at(300));
    assert!(difference(Some(&first), &later).is_empty());
}

/// What it has found is sealed, and so is the way there.
#[test]
fn of_a_replay_only_its_progress_is_told() {
    let payload = Some(crate::agent::testing::audit());
    let state = UnitState { payload, checkpoints: vec![commit(40)], ..UnitState::default() };
    let running = wanted(WorkUnitPhase::Running, true);
    let said = compose(&WorkUnitStatus::default(), &running, &state, Some(&progress(25)), at(100));
    assert_eq!((said.step, said.loss, said.checkpoint), (Some(25), None, None));
    assert_eq!(said.eval_loss, None);
}

#[test]
fn a_patch_has_only_what_changed_and_times_of_transitions() {
    let state = UnitState::default();
    let starting = wanted(WorkUnitPhase::Starting, false);
    let first = compose(&WorkUnitStatus::default(), &starting, &state, None, at(100));
    let stepping = compose(&first, &starting, &state, Some(&progress(1)), at(100));
    assert_eq!(patience(&first, &stepping), PROGRESS_INTERVAL);
    let second = compose(&first, &wanted(WorkUnitPhase::Running, true), &state, None, at(150));
    assert_eq!(patience(&first, &second), Duration::ZERO);
    let ready = compose(&first, &wanted(WorkUnitPhase::Starting, true), &state, None, at(100));
    assert_eq!(patience(&first, &ready), WAITING_INTERVAL, "what it waits for before it runs");
    let unready = compose(&second, &wanted(WorkUnitPhase::Running, false), &state, None, at(160));
    assert_eq!(patience(&second, &unready), CONDITIONS_INTERVAL);
    let changes = difference(Some(&first), &second);
    let paths: Vec<_> = changes.iter().map(|change| change["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/status/conditions", "/status/phase"]);
    let whole = difference(None, &first);
    assert_eq!((whole.len(), &whole[0]["path"]), (1, &json!("/status")), "an object without status");
    assert_eq!(second.conditions[0].last_transition_time, Time(at(150)));
    let third = compose(&second, &wanted(WorkUnitPhase::Running, true), &state, None, at(200));
    assert_eq!(third.conditions[0].last_transition_time, Time(at(150)));
}

#[test]
fn finished_phases_only_become_released_and_failures_are_sanitised() {
    let failure = Failure {
        attempt: 1,
        rank: Some(1),
        exit_code: Some(65),
        reason: "NonFinite".to_owned(),
        message: "\u{1b}[31m".to_owned() + &"x".repeat(400),
    };
    let memory = Memory { last_failure: Some(failure), ..Memory::default() };
    let state = UnitState { memory, ..UnitState::default() };
    let failed =
        compose(&WorkUnitStatus::default(), &wanted(WorkUnitPhase::Failed, false), &state, None, at(1));
    let message = failed.last_failure.as_ref().unwrap().message.as_deref().unwrap();
    assert!(message.len() == 256 && message.starts_with("[31mx"));
    let still = compose(&failed, &wanted(WorkUnitPhase::Running, true), &state, None, at(2));
    assert_eq!(still.phase, Some(WorkUnitPhase::Failed));
    let released = compose(&failed, &wanted(WorkUnitPhase::Released, false), &state, None, at(2));
    assert_eq!(released.phase, Some(WorkUnitPhase::Released));
}

/// A hub with one WorkUnit that keeps what is written on it.
#[derive(Default, Clone)]
struct Hub {
    object: Arc<Mutex<Option<WorkUnit>>>,
    patches: Arc<Mutex<Vec<Value>>>,
}

impl Hub {
    fn show(&self, uid: &str) {
        let spec = json!({
            "kind": "Train", "jobUID": "0b5c6f0e-7d0d-4d0b-9f33-000000000001", "island": 0, "epoch": 5, "workers": 2,
            "envelope": {"payload": "", "payloadType": "", "signatures": []}, "desired": "Run",
        });
        let object = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit", "spec": spec,
            "metadata": {"name": "0b5c6f0e-0-5", "namespace": "muster-p-east", "uid": uid},
        });
        *locked(&self.object) = Some(serde_json::from_value(object).unwrap());
    }

    fn api(&self) -> Api<WorkUnit> {
        let answer = async |State(hub): State<Self>, request: Request| {
            let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
            locked(&hub.patches).push(serde_json::from_slice(&body).unwrap());
            Json(locked(&hub.object).clone())
        };
        let router = Router::new().fallback(answer).with_state(self.clone());
        Api::namespaced(kube::Client::new(router, "default"), "muster-p-east")
    }

    /// The first operation and the value of `/status` or `/status/phase` of all that was written.
    fn said(&self) -> Vec<(Value, String)> {
        let phase = |change: &Value| match change["path"].as_str()? {
            "/status/phase" => Some(change["value"].as_str()?.to_owned()),
            "/status" => Some(change["value"]["phase"].as_str()?.to_owned()),
            _ => None,
        };
        let of = |patch: &Value| {
            let changes = patch.as_array().unwrap();
            (changes[0].clone(), changes.iter().find_map(phase).unwrap())
        };
        locked(&self.patches).iter().map(of).collect()
    }
}

/// The end of a run was said again of the next object of the same name, and being an end it stayed, if the writer woke
/// between the controller's look at that object and its verdict.
#[tokio::test]
async fn what_was_decided_for_one_object_is_not_written_on_the_next_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let units = Units::open(StateDir::open(dir.path()).unwrap()).unwrap();
    let unit = units.ensure("0b5c6f0e-0-5");
    unit.update(|state| state.uid = FIRST.to_owned()).await.unwrap();
    let hub = Hub::default();
    let seen = hub.object.clone();
    let read = move || locked(&seen).clone();
    let writer = tokio::spawn(write(unit.clone(), hub.api(), read, Shutdown::manual()));
    // Wakes the writer, which has nothing to say.
    let woken = async || {
        unit.durable.send_replace(0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let written = async |count| {
        while hub.said().len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    unit.wanted.send_replace(Some(wanted(WorkUnitPhase::Released, false)));
    woken().await;
    assert_eq!(hub.said(), [], "nothing is written on what was not seen");
    let test = |uid| json!({"op": "test", "path": "/metadata/uid", "value": uid});
    let mut expected = vec![(test(FIRST), "Released".to_owned())];
    hub.show(FIRST);
    written(1).await;
    assert_eq!(hub.said(), expected);
    // The hub has another object of the name, the controller has not looked; then it has, and has said nothing yet.
    hub.show(SECOND);
    woken().await;
    unit.update(|state| state.uid = SECOND.to_owned()).await.unwrap();
    woken().await;
    assert_eq!(hub.said(), expected);
    let refused = Wanted { uid: SECOND.to_owned(), ..wanted(WorkUnitPhase::Refused, false) };
    unit.wanted.send_replace(Some(refused));
    written(2).await;
    expected.push((test(SECOND), "Refused".to_owned()));
    assert_eq!(hub.said(), expected);
    writer.abort();
}

/// A unit that is taken starts at once, and both would be a write of the hub's database.
#[tokio::test(start_paused = true)]
async fn accepted_is_said_alone_only_if_nothing_follows() {
    let dir = tempfile::tempdir().unwrap();
    let units = Units::open(StateDir::open(dir.path()).unwrap()).unwrap();
    for (then, said) in [(Some(WorkUnitPhase::Starting), "Starting"), (None, "Accepted")] {
        let unit = units.ensure(said);
        unit.update(|state| state.uid = FIRST.to_owned()).await.unwrap();
        let hub = Hub::default();
        hub.show(FIRST);
        let seen = hub.object.clone();
        let read = move || locked(&seen).clone();
        let writer = tokio::spawn(write(unit.clone(), hub.api(), read, Shutdown::manual()));
        unit.wanted.send_replace(Some(wanted(WorkUnitPhase::Accepted, false)));
        tokio::time::sleep(ACCEPTED_FOR / 2).await;
        assert_eq!(hub.said(), []);
        if let Some(phase) = then {
            unit.wanted.send_replace(Some(wanted(phase, false)));
        }
        tokio::time::sleep(ACCEPTED_FOR * 2).await;
        let phases: Vec<String> = hub.said().into_iter().map(|(_, phase)| phase).collect();
        assert_eq!(phases, [said]);
        writer.abort();
    }
}
