//! What is committed is read back: from the store's bytes comes the StateRoot, or nothing is logged.
use super::*;
use crate::wire::log::Logged;

/// The commit of a checkpoint that was put, with this StateRoot in it.
async fn try_commit(site: &Site, step: u64, manifest: &Digest, root: Digest) -> (u16, Refused) {
    let payload = work::find(site.work.as_ref(), "east", UNIT).await.unwrap().payload;
    let (commit, model) = (signed(&payload, step, manifest, root), site.model(manifest, &bound()).await);
    let request = send_said(UNIT, step, manifest, &commit, &model, bound().public());
    let answer = site.send(request).await;
    let status = answer.status().as_u16();
    let nothing = Refused { reason: String::new(), message: String::new() };
    (status, serde_json::from_slice(&bytes(answer).await).unwrap_or(nothing))
}

fn root_of(bytes: &[u8]) -> Digest {
    muster_trainer::checkpoint::Manifest::parse(bytes).unwrap().state_root()
}

/// Puts these files, and a manifest of them that says it is the state after `says`.
async fn put(site: &Site, files: Vec<(String, Vec<u8>)>, says: u64) -> (Digest, Digest) {
    let mut entries = Vec::new();
    for (path, bytes) in files {
        assert!([200, 201].contains(&site.put(UNIT, &bytes).await));
        entries.push(FileEntry { path, size: bytes.len() as u64, sha256: Digest::of(&bytes) });
    }
    let manifest = state_manifest(training(), says, "", entries);
    site.put(UNIT, &manifest).await;
    (Digest::of(&manifest), root_of(&manifest))
}

#[rstest]
#[tokio::test]
async fn a_commit_is_logged_and_answered_with_its_place(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    for _ in 0..2 {
        let answer = site.send(site.commit_request("east", UNIT, 20, &manifest).await).await;
        let logged: Logged = serde_json::from_slice(&bytes(answer).await).unwrap();
        let (index, envelope) = site.log.entry(&logged.record_id).unwrap().unwrap();
        assert_eq!((logged.index, index), (0, 0));
        let commit = records::Commit::from_payload(envelope.unverified_payload()).unwrap();
        assert_eq!((commit.manifest, commit.last_step.get()), (manifest, 20));
        let entry = crate::store::Entry { record: logged.record_id, index };
        let noted = site.store.noted_commit(JOB, 20).await.unwrap();
        assert_eq!(noted, Some(crate::store::Noted::Logged(entry)));
    }
    assert_eq!(site.log.view().published.size(), 1);
}

#[rstest]
#[tokio::test]
async fn files_of_another_state_are_refused_and_nothing_is_logged(#[values(On::Dir, On::Bucket)] on: On) {
    let site = Site::new(on).await;
    let refuses = async |files: Vec<(String, Vec<u8>)>, names: &str| {
        let (manifest, root) = put(&site, files, 20).await;
        let (status, said) = try_commit(&site, 20, &manifest, root).await;
        assert_eq!((status, said.reason.as_str()), (409, "WrongStateRoot"), "{said:?}");
        assert!(said.message.contains(names), "{said:?}");
    };
    // One bit of a weight, one of a moment, one of a header, one of the configuration.
    let good = || state_files(20, "");
    for (file, at, names) in [(1, usize::MAX, "stateRoot"), (2, usize::MAX, "stateRoot")] {
        let mut files = good();
        let at = at.min(files[file].1.len() - 1);
        files[file].1[at] ^= 1;
        refuses(files, names).await;
    }
    for (file, names) in [(0, "config.json"), (1, "model.safetensors"), (2, "optimizer.safetensors")] {
        let mut files = good();
        files[file].1[12] ^= 1;
        refuses(files, names).await;
        let mut files = good();
        files[file].1.pop();
        refuses(files, names).await;
    }
    // A file of another step, of another flavour, and one in the place of the other.
    for (file, other) in [(1, state_files(20, "other")), (2, state_files(40, ""))] {
        let mut files = good();
        files[file].1.clone_from(&other[file].1);
        refuses(files, "stateRoot").await;
    }
    let mut files = good();
    let model = files[1].1.clone();
    files[1].1 = std::mem::replace(&mut files[2].1, model);
    refuses(files, "model.safetensors").await;
    // All of another step.
    refuses(state_files(40, ""), "stateRoot").await;
    assert_eq!(site.log.view().published.size(), 0);
    assert!(site.store.checkpoints(JOB).await.unwrap().is_empty());
    let (manifest, root) = put(&site, good(), 20).await;
    assert_eq!(try_commit(&site, 20, &manifest, root).await.0, 200);
}

#[tokio::test]
async fn a_commit_of_another_root_than_its_manifest_is_refused() {
    let site = Site::new(On::Dir).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    let (status, said) = try_commit(&site, 20, &manifest, Digest::of(b"another")).await;
    assert_eq!((status, said.reason.as_str()), (409, "WrongStateRoot"));
    assert_eq!(site.log.view().published.size(), 0);
}

/// What the disk has damaged since the upload is found, and can be put again.
#[tokio::test]
async fn a_blob_that_was_damaged_since_is_uploaded_again() {
    let site = Site::new(On::Dir).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    let model = &state_files(20, "")[1].1;
    let hex = Digest::of(model).to_hex();
    let path = site._dir.path().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let refused = site.commit(UNIT, 20, &manifest).await;
    assert_eq!(refused, (409, "WrongStateRoot".to_owned()));
    assert_eq!(site.commit(UNIT, 20, &manifest).await, (409, "BlobMissing".to_owned()));
    assert_eq!(site.put(UNIT, model).await, 201);
    assert_eq!(site.commit(UNIT, 20, &manifest).await, (200, String::new()));
}

#[tokio::test]
async fn a_commit_that_is_not_of_its_unit_is_refused_before_anything_is_read() {
    let site = Site::new(On::Dir).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    let payload = work::find(site.work.as_ref(), "east", UNIT).await.unwrap().payload;
    type Change = fn(&mut Payload);
    let changes: [(&str, Change); 2] = [("job", |p| p.job = Digest::of(b"x")), ("epoch", |p| p.epoch = 7)];
    for (field, change) in changes {
        let mut other = payload.clone();
        change(&mut other);
        let request = send_commit(UNIT, 20, &manifest, &signed(&other, 20, &manifest, manifest));
        let answer = site.send(request).await;
        let said: Refused = serde_json::from_slice(&bytes(answer).await).unwrap();
        assert!(said.reason == "BadCommit" && said.message.contains(field), "{said:?}");
    }
    let of = |step: u64, manifest: &Digest| signed(&payload, step, manifest, *manifest);
    for (commit, reason) in [
        (of(40, &manifest), "WrongStep"),
        (of(20, &Digest::of(b"another")), "BadCommit"),
        (Envelope::sign("application/x", b"{}", &bound()).unwrap(), "BadCommit"),
    ] {
        let answer = site.send(send_commit(UNIT, 20, &manifest, &commit)).await;
        assert_eq!(refused(answer).await.1, reason);
    }
    // Its signature the log looks at.
    let mut forged = serde_json::to_value(of(20, &manifest)).unwrap();
    let root = root_of(&site.store.read(&manifest, 1 << 16).await.unwrap().unwrap());
    let thief = SigningKey::generate([4; 32]).unwrap();
    let good = signed(&payload, 20, &manifest, root);
    let stolen = Envelope::sign(good.payload_type(), good.unverified_payload(), &thief).unwrap();
    forged["signatures"] = serde_json::to_value(stolen.signatures()).unwrap();
    forged["payload"] = json!(STANDARD.encode(good.unverified_payload()));
    let forged: Envelope = serde_json::from_value(forged).unwrap();
    let answer = refused(site.send(send_commit(UNIT, 20, &manifest, &forged)).await).await;
    assert!([400, 403, 409].contains(&answer.0), "{answer:?}");
    assert_eq!(site.log.view().published.size(), 0);
}

#[tokio::test]
async fn what_was_logged_before_the_gateway_died_is_recorded_by_the_next_commit() {
    let site = Site::new(On::Dir).await;
    let manifest = site.put_checkpoint(UNIT, 20, "").await;
    assert_eq!(site.commit(UNIT, 20, &manifest).await.0, 200);
    let Some(crate::store::Noted::Logged(entry)) = site.store.noted_commit(JOB, 20).await.unwrap() else {
        panic!("it is logged");
    };
    // As if it had died right after the log.
    site.store.forget_checkpoint(JOB, 20).await.unwrap();
    site.store.note_commit(JOB, 20, &crate::store::Noted::Begun(entry.record)).await.unwrap();
    site.place("east", JOB, 2, None);
    let unit = "4f2a9c1b-0-2";
    let other = site.put_checkpoint(unit, 20, "other bits: ").await;
    assert_eq!(site.commit(unit, 20, &other).await, (409, "StepTaken".to_owned()));
    assert_eq!(site.store.checkpoint(JOB, 20).await.unwrap(), Some(manifest));
    assert_eq!(site.store.noted_commit(JOB, 20).await.unwrap(), Some(crate::store::Noted::Logged(entry)));
}
