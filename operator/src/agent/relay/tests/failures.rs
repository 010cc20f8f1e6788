//! Steps that are not finite: told once, kept, brought to the log after all that was committed; of a replay, sealed.
use muster_proof::records::fields::Step;
use muster_proof::records::{AuditOpening, Failure, KeyBinding as Bound, Opening, Payload as _, failed_root};
use muster_trainer::failed::Failed;
use muster_trainer::protocol::FailureNotice;

use super::audits::replaying;
use super::*;
use crate::agent::testing::audit;

fn state() -> Digest {
    Digest::of(b"state")
}

/// A step of the interval of these terms that failed, by the records of those before it.
fn failed(terms: &Terms, step: u64) -> Failed {
    let taken = (step - terms.first_step.get()) as usize;
    Failed::new(step, state(), records(terms).as_slice()[..taken].to_vec()).unwrap()
}

impl Agent {
    async fn terms_of_failed(&self, pod: &str, step: u64) -> Response {
        self.get(pod, &format!("/v1/terms?failedStep={step}")).await
    }

    /// As the sidecar with this key says it.
    async fn failure(&self, pod: &str, step: u64, key: &SigningKey) -> FailureNotice {
        let terms: Terms = json(self.terms_of_failed(pod, step).await).await;
        failed(&terms, step).sign(&terms, key).unwrap()
    }

    async fn fails(&self, pod: &str, notice: &FailureNotice) -> Response {
        self.ask(pod, Method::POST, "/v1/failures", Some(serde_json::to_value(notice).unwrap())).await
    }

    async fn logged(&self, unit: &Unit) {
        for _ in 0..200 {
            if unit.state().await.failure.is_some_and(|failed| failed.durable) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not in the log: {:?}", unit.state().await.failure);
    }
}

#[tokio::test]
async fn it_goes_up_after_all_commits_and_nothing_follows() {
    let (world, agent) = World::new().await;
    agent.reads_spec("pod-0").await;
    world.hub.down.store(true, Ordering::SeqCst);
    let unit = agent.unit();
    agent.uploads(&world, unit.clone());
    agent.make(20).await;
    let early = agent.terms_of_failed("pod-0", 47).await;
    assert_eq!(early.status(), StatusCode::CONFLICT);
    assert_eq!(early.json::<Conflict>().await.unwrap(), Conflict::NotNext { step: 40 });
    agent.make(40).await;
    let notice = agent.failure("pod-0", 47, &key(7)).await;
    assert_eq!(agent.fails("pod-0", &notice).await.status(), StatusCode::ACCEPTED);
    assert_eq!(agent.fails("pod-0", &notice).await.status(), StatusCode::ACCEPTED);
    // Nothing is committed any more, and what was said stands.
    assert_eq!(agent.terms("pod-0", 60).await.status(), StatusCode::GONE);
    let again: Terms = json(agent.terms_of_failed("pod-0", 47).await).await;
    assert_eq!((again.first_step.get(), again.last_step.get(), again.interval.get()), (41, 60, 2));
    let other = agent.failure("pod-0", 48, &key(7)).await;
    let answer = agent.fails("pod-0", &other).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("not reproducible"));
    world.hub.down.store(false, Ordering::SeqCst);
    agent.logged(&unit).await;
    assert_eq!(
        world.hub.records(),
        ["key-binding", "commit", "step 20", "commit", "step 40", "failure", "failed 47"]
    );
    assert_eq!(agent.fails("pod-0", &notice).await.status(), StatusCode::OK, "now its pod may end");
    // The record names the last commit, and can be opened.
    let said = Failure::from_payload(notice.failure.unverified_payload()).unwrap();
    assert_eq!(said.previous, unit.state().await.newest().unwrap().record);
    assert_eq!(said.state_root, failed_root(&state(), Step::new(47).unwrap()));
    let opening = agent.answers.opening(&notice.failure.record_id()).unwrap();
    let opening = Opening::from_payload(opening.unverified_payload()).unwrap();
    assert_eq!((opening.record_root, opening.salt), (failed(&again, 47).records().root(), again.salt));
}

/// The agent is killed after the pod was told that it is taken; the next attempt, with another key, comes to the same.
#[tokio::test]
async fn a_crash_loses_nothing_and_a_retry_doubles_nothing() {
    let (world, agent) = World::new().await;
    let notice = agent.failure("pod-0", 1, &key(7)).await;
    assert!(notice.records.is_empty(), "the very first step");
    assert_eq!(agent.fails("pod-0", &notice).await.status(), StatusCode::ACCEPTED);
    agent.shutdown.trigger();
    let agent = world.start().await;
    let unit = agent.unit();
    unit.update(|state| {
        state.memory.attempt = 2;
        super::super::rounds::bind(state, 0, &key(8).public().to_pem().unwrap());
    })
    .await
    .unwrap();
    world.pods.add("pod-2", UNIT, 2, 0);
    let again = agent.failure("pod-2", 1, &key(8)).await;
    assert_eq!(agent.fails("pod-2", &again).await.status(), StatusCode::ACCEPTED);
    assert_eq!(again.failure.record_id(), notice.failure.record_id());
    locked(&world.hub.refuses).extend(["AwaitsVerdicts", "Unavailable"]);
    agent.uploads(&world, unit.clone());
    agent.logged(&unit).await;
    assert_eq!(world.hub.records(), ["key-binding", "failure", "failed 1"]);
    let binding = unit.state().await.bindings.remove(&1).unwrap();
    let binding = Bound::from_payload(binding.record.unverified_payload()).unwrap();
    assert_eq!(&binding.key, key(7).public(), "the key that signed what is logged");
}

/// A rollback, or another grant, has ended the unit's.
#[tokio::test]
async fn one_that_comes_too_late_ends_the_unit() {
    let (world, agent) = World::new().await;
    locked(&world.hub.refuses).push_back("GrantEnded");
    let unit = agent.unit();
    let notice = agent.failure("pod-0", 3, &key(7)).await;
    assert_eq!(agent.fails("pod-0", &notice).await.status(), StatusCode::ACCEPTED);
    agent.uploads(&world, unit.clone());
    for _ in 0..200 {
        if unit.state().await.superseded.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(unit.state().await.superseded.unwrap().contains("GrantEnded"));
}

#[tokio::test]
async fn what_a_pod_says_of_a_failure_is_checked() {
    let (_world, agent) = World::new().await;
    agent.make(20).await;
    let good = agent.failure("pod-0", 33, &key(7)).await;
    assert_eq!(agent.fails("pod-1", &good).await.status(), StatusCode::FORBIDDEN, "rank 1");
    let forged = agent.failure("pod-0", 33, &key(8)).await;
    type Change = fn(&mut FailureNotice);
    let changes: [(&str, Change); 6] = [
        ("stateRoot", |it| it.before = Digest::of(b"other")),
        ("recordSeal", |it| it.records[3].loss = Bits::of(9.0)),
        ("records", |it| it.records.truncate(3)),
        ("failedStep", |it| it.failed_step = 34),
        ("failedStep", |it| it.failed_step = 20),
        ("18446744073709551615", |it| it.failed_step = u64::MAX),
    ];
    let mut bad = vec![("signature", forged)];
    for (what, change) in changes {
        let mut other = good.clone();
        change(&mut other);
        bad.push((what, other));
    }
    for (what, notice) in bad {
        let answer = agent.fails("pod-0", &notice).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{what}");
    }
    // Signed under terms that do not hold.
    let terms: Terms = json(agent.terms_of_failed("pod-0", 33).await).await;
    let old = Terms { previous: Digest::of(b"before the restore"), ..terms };
    let notice = failed(&old, 33).sign(&old, &key(7)).unwrap();
    let answer = agent.fails("pod-0", &notice).await;
    assert_eq!(answer.json::<Conflict>().await.unwrap(), Conflict::TermsChanged {});
    // The state before an interval's first step is known here.
    let terms: Terms = json(agent.terms_of_failed("pod-0", 21).await).await;
    let elsewhere = Failed::new(21, Digest::of(b"other"), Vec::new()).unwrap().sign(&terms, &key(7)).unwrap();
    let answer = agent.fails("pod-0", &elsewhere).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("the state that was committed"));
    assert_eq!(agent.unit().state().await.failure, None, "nothing was recorded of all that");
    for path in
        ["/v1/terms", "/v1/terms?step=40&failedStep=33", "/v1/terms?failedStep=-1", "/v1/terms?failedStep=20"]
    {
        assert_eq!(agent.get("pod-0", path).await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    let body = serde_json::json!({"failedStep": 33});
    let answer = agent.ask("pod-0", Method::POST, "/v1/failures", Some(body)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(agent.fails("pod-0", &good).await.status(), StatusCode::ACCEPTED);
}

/// The same of a replay is what its auditor seals, whatever the trainer has claimed, and is nowhere else.
#[tokio::test]
async fn a_replay_that_fails_is_sealed_as_failed() {
    let (world, agent, _) = replaying().await;
    let unit = agent.units.get(&audit().name).unwrap();
    let notice = agent.failure("audit-0", 29, &key(7)).await;
    let said = Failure::from_payload(notice.failure.unverified_payload()).unwrap();
    assert_eq!((said.epoch.get(), said.interval.get(), said.first_step.get()), (1, 1, 21));
    assert_eq!(agent.fails("audit-0", &notice).await.status(), StatusCode::ACCEPTED);
    agent.uploads(&world, unit.clone());
    agent.logged(&unit).await;
    assert_eq!(world.hub.records(), ["audit-seal"]);
    assert_eq!(agent.fails("audit-0", &notice).await.status(), StatusCode::OK);
    let opening = agent.answers.audit_opening(&audit().audit.unwrap().assignment).unwrap();
    let opening = AuditOpening::from_payload(opening.unverified_payload()).unwrap();
    let terms: Terms = json(agent.terms_of_failed("audit-0", 29).await).await;
    let want = failed(&terms, 29);
    assert_eq!((opening.state_root, opening.record_root), (want.state_root(), want.records().root()));
    assert_eq!(
        agent.terms_of_failed("audit-0", 41).await.status(),
        StatusCode::CONFLICT,
        "beyond the interval"
    );
}
