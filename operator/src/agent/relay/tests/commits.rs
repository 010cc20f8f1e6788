//! What a checkpoint must satisfy, and what its commit must say.
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Step};

use super::*;

#[tokio::test]
async fn checkpoints_are_checked_before_anyone_may_start_from_them() {
    let (_world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    let (manifest, blobs) = checkpoint(20, training);
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::CONFLICT, "no manifest");
    agent.put("pod-0", &manifest, blobs.last().unwrap()).await;
    let missing = agent.commit("pod-0", 20, &manifest).await;
    assert_eq!(missing.status(), StatusCode::CONFLICT);
    assert_eq!(missing.json::<Conflict>().await.unwrap(), Conflict::BlobMissing {});
    agent.upload(20, training).await;
    for (pod, step, status, want) in [
        ("pod-1", 20, StatusCode::FORBIDDEN, "rank 0"),
        ("pod-0", 21, StatusCode::BAD_REQUEST, "neither the end of an interval"),
        ("pod-0", 120, StatusCode::BAD_REQUEST, "neither the end of an interval"),
        ("pod-0", 0, StatusCode::BAD_REQUEST, "neither the end of an interval"),
        ("pod-0", 40, StatusCode::BAD_REQUEST, "manifest.step is 20, want 40"),
    ] {
        let answer = agent.commit(pod, step, &manifest).await;
        assert_eq!(answer.status(), status);
        let text = answer.text().await.unwrap();
        assert!(text.contains(want), "{text}");
    }
    let foreign = agent.upload(20, Digest::of(b"another job")).await;
    let text = agent.commit("pod-0", 20, &foreign).await.text().await.unwrap();
    assert!(text.contains("manifest.trainingDigest"), "{text}");
    agent.put("pod-0", &Digest::of(b"{}"), b"{}").await;
    assert_eq!(agent.commit("pod-0", 20, &Digest::of(b"{}")).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(agent.unit().state().await.checkpoints, []);
    // Good, twice, and then other bits for the same step.
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(agent.commit("pod-0", 20, &manifest).await.status(), StatusCode::ACCEPTED);
    let mut other = blobs.clone();
    let text = String::from_utf8(other.pop().unwrap()).unwrap();
    let other = text.replace("\"b1p\":\"3fe0000000000000\"", "\"b1p\":\"3fd0000000000000\"").into_bytes();
    agent.put("pod-0", &Digest::of(&other), &other).await;
    let text = agent.commit("pod-0", 20, &Digest::of(&other)).await.text().await.unwrap();
    assert!(text.contains("not reproducible"), "{text}");
    assert_eq!(agent.unit().state().await.checkpoints.len(), 1);
}

#[tokio::test]
async fn terms_are_those_of_the_interval_that_is_next() {
    let (world, agent) = World::new().await;
    let payload = agent.unit().state().await.payload.unwrap();
    let first: Terms = json(agent.terms("pod-0", 20).await).await;
    assert_eq!((first.job.0, first.island.get(), first.epoch.get()), (payload.job, 0, 1));
    assert_eq!((first.interval.get(), first.first_step.get(), first.last_step.get()), (0, 1, 20));
    assert_eq!(first.previous, payload.start_record);
    // Others wait, and what is no interval's end has none.
    let other = agent.terms("pod-0", 40).await;
    assert_eq!(other.status(), StatusCode::CONFLICT);
    assert_eq!(other.json::<Conflict>().await.unwrap(), Conflict::NotNext { step: 20 });
    for step in ["0", "21", "120", "x", "-1", ""] {
        let answer = agent.get("pod-0", &format!("/v1/terms?step={step}")).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{step}");
    }
    assert_eq!(agent.get("pod-0", "/v1/terms").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(agent.terms("pod-1", 20).await.status(), StatusCode::FORBIDDEN, "rank 1");
    assert_eq!(agent.terms("nonsense", 20).await.status(), StatusCode::UNAUTHORIZED);
    // The next ones continue what was committed, durable or not, also after a restart of the agent.
    agent.make(20).await;
    let record = agent.unit().state().await.checkpoints[0].record;
    let next: Terms = json(agent.terms("pod-0", 40).await).await;
    assert_eq!((next.interval.get(), next.first_step.get(), next.previous), (1, 21, record));
    assert_ne!(next.salt, first.salt);
    agent.shutdown.trigger();
    let agent = world.start().await;
    assert_eq!(json::<Terms>(agent.terms("pod-0", 40).await).await, next);
    assert_eq!(json::<Terms>(agent.terms("pod-0", 20).await).await, first, "who asks again is told the same");
    let behind = agent.terms("pod-0", 60).await.json::<Conflict>().await.unwrap();
    assert_eq!(behind, Conflict::NotNext { step: 40 });
    // The last one has fewer steps; then there is no more.
    agent.unit().update(|state| state.payload.as_mut().unwrap().steps = 50).await.unwrap();
    agent.make(40).await;
    let last: Terms = json(agent.terms("pod-0", 50).await).await;
    assert_eq!((last.first_step.get(), last.last_step.get()), (41, 50));
    agent.unit().update(|state| state.rounds.keys.clear()).await.unwrap();
    let answer = agent.terms("pod-0", 50).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(answer.text().await.unwrap().contains("no key is bound"));
    agent.unit().update(|state| state.memory.over = true).await.unwrap();
    assert_eq!(agent.terms("pod-0", 50).await.status(), StatusCode::GONE);
}

fn parsed(step: u64, training: Digest) -> (Manifest, Digest) {
    let (digest, blobs) = checkpoint(step, training);
    (Manifest::parse(blobs.last().unwrap()).unwrap(), digest)
}

#[tokio::test]
async fn a_commit_counts_if_the_bound_key_has_signed_what_the_terms_say() {
    let (_world, agent) = World::new().await;
    let training = agent.unit().state().await.payload.unwrap().training_digest;
    let manifest = agent.upload(20, training).await;
    let terms: Terms = json(agent.terms("pod-0", 20).await).await;
    let (own, _) = parsed(20, training);
    let sign = |terms: &Terms, key: &SigningKey| {
        let model = sign_files(&own, &manifest, key).unwrap();
        commit::sign(terms, &records(terms), reached(manifest, b"state"), model, key).unwrap()
    };
    let good = sign(&terms, &key(7));
    // What the terms say has changed, or never was so: ask for them and sign anew.
    let stale: [fn(&mut Terms); 5] = [
        |terms| terms.job = JobId(Digest::of(b"other")),
        |terms| terms.island = Island::new(1).unwrap(),
        |terms| terms.epoch = Epoch::new(2).unwrap(),
        |terms| terms.interval = Interval::new(1).unwrap(),
        |terms| terms.previous = Digest::of(b"other"),
    ];
    for (at, change) in stale.into_iter().enumerate() {
        let mut other = terms.clone();
        change(&mut other);
        let answer = agent.say("pod-0", &sign(&other, &key(7))).await;
        assert_eq!(answer.status(), StatusCode::CONFLICT, "change {at}");
        assert_eq!(answer.json::<Conflict>().await.unwrap(), Conflict::TermsChanged {}, "change {at}");
    }
    let shorter = Terms { first_step: Step::new(2).unwrap(), ..terms.clone() };
    assert_eq!(agent.say("pod-0", &sign(&shorter, &key(7))).await.status(), StatusCode::CONFLICT);
    // What the pod itself gets wrong.
    let mut records_changed = good.clone();
    records_changed.records[3].loss = Bits::of(9.0);
    let mut record_missing = good.clone();
    record_missing.records.pop();
    let salted = Terms { salt: made_up(20).salt, ..terms.clone() };
    let model = good.model.clone();
    let another_root =
        commit::sign(&terms, &records(&terms), reached(manifest, b"other"), model, &key(7)).unwrap();
    let another_root = CheckpointNotice { state_root: Digest::of(b"state"), ..another_root };
    let mut two = good.clone();
    two.commit.add_signature(&key(8)).unwrap();
    let other_kind = Envelope::sign("application/json", b"{}", &key(7)).unwrap();
    for (notice, what) in [
        (sign(&terms, &key(8)), "another key"),
        (two, "two keys"),
        (records_changed, "records changed"),
        (record_missing, "record missing"),
        (sign(&salted, &key(7)), "another salt"),
        (another_root, "another root"),
        (CheckpointNotice { commit: other_kind, ..good.clone() }, "another kind of record"),
    ] {
        let answer = agent.say("pod-0", &notice).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{what}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("BadCommit"), "{what}: {text}");
    }
    // What it says of the files.
    let (other, other_digest) = parsed(40, training);
    let mut two = good.model.clone();
    two.add_signature(&key(8)).unwrap();
    let bent = Envelope::sign(PAYLOAD_TYPE, good.model.unverified_payload(), &key(8)).unwrap();
    for (model, what) in [
        (bent, "another key"),
        (two, "two keys"),
        (sign_files(&other, &other_digest, &key(7)).unwrap(), "another checkpoint"),
        (sign_files(&own, &other_digest, &key(7)).unwrap(), "another manifest"),
        (Envelope::sign(PAYLOAD_TYPE, b"{}", &key(7)).unwrap(), "no statement"),
        (good.commit.clone(), "another kind"),
    ] {
        let answer = agent.say("pod-0", &CheckpointNotice { model, ..good.clone() }).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{what}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("BadModel"), "{what}: {text}");
    }
    assert_eq!(agent.unit().state().await.checkpoints, []);
    assert!(agent.unit().committed_at(20).await.unwrap().is_none());
    assert_eq!(agent.say("pod-0", &good).await.status(), StatusCode::ACCEPTED);
    let committed = agent.unit().committed_at(20).await.unwrap().unwrap();
    assert_eq!((&committed.commit, &committed.records), (&good.commit, &good.records));
    assert_eq!((&committed.model, &committed.key), (&good.model, key(7).public()));
    let state = agent.unit().state().await;
    assert_eq!(state.checkpoints[0].record, good.commit.record_id());
    assert_eq!(state.bindings.keys().copied().collect::<Vec<_>>(), [1]);
}

/// The pod of the next attempt passes the same steps again, and has another key.
#[tokio::test]
async fn the_same_step_is_the_same_record_whoever_signs_it() {
    let (world, agent) = World::new().await;
    let manifest = agent.make(20).await;
    let record = agent.unit().state().await.checkpoints[0].record;
    let next = agent.make(40).await;
    agent.unit().update(|state| state.memory.attempt = 2).await.unwrap();
    world.pods.add("pod-2", UNIT, 2, 0);
    assert_eq!(agent.terms("pod-2", 20).await.status(), StatusCode::FORBIDDEN);
    let binding = binding::bind(&key(8), "pod-2").unwrap();
    assert_eq!(agent.bind("pod-2", &binding).await.status(), StatusCode::CREATED);
    for (step, manifest) in [(20, &manifest), (40, &next)] {
        let notice = agent.notice("pod-2", step, manifest, &key(8)).await;
        assert_eq!(agent.say("pod-2", &notice).await.status(), StatusCode::ACCEPTED, "step {step}");
    }
    let state = agent.unit().state().await;
    assert_eq!((state.checkpoints.len(), state.checkpoints[0].record), (2, record));
    // Other records for the same state: the bits differ somewhere, and only one of them can be right.
    let terms: Terms = json(agent.terms("pod-2", 20).await).await;
    let mut other = records(&terms).as_slice().to_vec();
    other[0].loss = Bits::of(7.5);
    let other = Records::new(1, other).unwrap();
    let model = agent.model(&manifest, &key(8)).await;
    let notice = commit::sign(&terms, &other, reached(manifest, b"state"), model, &key(8)).unwrap();
    let answer = agent.say("pod-2", &notice).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(answer.text().await.unwrap().contains("not reproducible"));
}
