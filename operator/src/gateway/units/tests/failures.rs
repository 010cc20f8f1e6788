//! Steps that are not finite: one takes the place of its interval's commit, and is checked as far as it can be.
use super::*;

fn failure(payload: &Payload, step: u64) -> records::Failure {
    let (interval, failed_step) = (step.saturating_sub(1) / 20, Step::new(step).unwrap());
    records::Failure {
        job: JobId(payload.job),
        island: Island::new(0).unwrap(),
        epoch: Epoch::new(payload.epoch as u64).unwrap(),
        interval: Interval::new(interval).unwrap(),
        first_step: Step::new(interval * 20 + 1).unwrap(),
        failed_step,
        previous: payload.start_record,
        state_root: records::failed_root(&Digest::of(b"state"), failed_step),
        record_seal: Digest::of(b"seal"),
    }
}

impl Site {
    async fn payload(&self, unit: &str) -> Payload {
        work::find(self.work.as_ref(), "east", unit).await.unwrap().payload
    }

    async fn fails(&self, unit: &str, step: &str, failure: &Envelope) -> (u16, String) {
        let body = serde_json::to_vec(&json!({ "failure": failure })).unwrap();
        let request = Request::post(format!("/v1/units/{unit}/failures/{step}")).body(Body::from(body));
        refused(self.send(request.unwrap()).await).await
    }
}

fn is(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

#[rstest]
#[tokio::test]
async fn a_failure_is_logged_once(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    let payload = site.payload(UNIT).await;
    let failure = failure(&payload, 33);
    let signed = failure.sign(&bound()).unwrap();
    assert_eq!(site.fails(UNIT, "33", &signed).await, is(200, ""));
    assert_eq!(site.fails(UNIT, "33", &signed).await, is(200, ""), "the answer was lost");
    assert_eq!(site.log.view().published.size(), 2);
    let other = records::Failure { record_seal: Digest::of(b"other"), ..failure };
    assert_eq!(site.fails(UNIT, "33", &other.sign(&bound()).unwrap()).await, is(409, "Known"));
    // The interval has its end, and no state.
    let next = site.put_checkpoint(UNIT, 40, "").await;
    assert_eq!(site.commit(UNIT, 40, &next).await, is(409, "Known"));
    assert_eq!(site.store.checkpoint(JOB, 40).await.unwrap(), None);
}

#[rstest]
#[tokio::test]
async fn what_is_no_failure_of_the_unit_is_not_logged(#[values(On::Dir)] on: On) {
    let site = Site::new(on).await;
    let payload = site.payload(UNIT).await;
    let good = failure(&payload, 33);
    let say = async |step: &str, failure: &records::Failure| {
        site.fails(UNIT, step, &failure.sign(&bound()).unwrap()).await
    };
    type Change = fn(&mut records::Failure);
    let changes: [Change; 3] = [
        |it| it.job = JobId(Digest::of(b"other")),
        |it| it.island = Island::new(1).unwrap(),
        |it| it.epoch = Epoch::new(2).unwrap(),
    ];
    for change in changes {
        let mut other = good.clone();
        change(&mut other);
        assert_eq!(say("33", &other).await, is(400, "BadFailure"));
    }
    assert_eq!(say("34", &good).await, is(409, "WrongStep"));
    assert_eq!(say("033", &good).await, is(400, "BadRequest"));
    let mut other = good.clone();
    other.interval = Interval::new(2).unwrap();
    assert_eq!(say("33", &other).await, is(409, "WrongStep"));
    let mut other = good.clone();
    other.first_step = Step::new(22).unwrap();
    assert_eq!(say("33", &other).await, is(409, "WrongStep"));
    assert_eq!(say("211", &failure(&payload, 211)).await, is(409, "WrongStep"), "beyond the last step");
    let commit = signed(&payload, 40, &Digest::of(b"m"), Digest::of(b"state"));
    assert_eq!(site.fails(UNIT, "40", &commit).await, is(400, "BadFailure"));
    let nonsense = Envelope::sign(records::Failure::PAYLOAD_TYPE, b"{}", &bound()).unwrap();
    assert_eq!(site.fails(UNIT, "33", &nonsense).await, is(400, "BadFailure"));
    assert_eq!(site.fails("4f2a9c1b-0-9", "33", &nonsense).await, is(404, "UnitNotFound"));
    // Superseded: whatever its agent believes.
    site.store.raise_epoch(JOB, 0, 2).await.unwrap();
    assert_eq!(say("33", &good).await, is(409, "OldEpoch"));
    assert_eq!(site.log.view().published.size(), 0);
}

#[rstest]
#[tokio::test]
async fn a_unit_fails_only_after_its_start(#[values(On::Dir)] on: On) {
    let site = Site::new(on).await;
    let (start, _) = recorded(&site.store, JOB, 40).await;
    site.place("east", JOB, 2, Some(CheckpointRef { step: 40, manifest: start }));
    let unit = "4f2a9c1b-0-2";
    let payload = site.payload(unit).await;
    let early = failure(&payload, 40).sign(&bound()).unwrap();
    assert_eq!(site.fails(unit, "40", &early).await, is(409, "WrongStep"));
    let first = failure(&payload, 41).sign(&bound()).unwrap();
    assert_eq!(site.fails(unit, "41", &first).await, is(200, ""));
}
