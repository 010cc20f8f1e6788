//! Readers of files that come from a provider or a tenant, and of what workers and their relay say to each other.
use std::net::SocketAddr;

use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;
use muster_proof::steps::{Bits, Records, StepRecord};
use muster_proof::{Digest, jcs};
use muster_trainer::binding;
use muster_trainer::commit::{self, Reached};
use muster_trainer::exchange::{HELLO, Identity, wire};
use muster_trainer::failed::{self, Failed};
use muster_trainer::protocol::handover::{self, Answer, Line, Written};
use muster_trainer::protocol::{
    CheckpointNotice, Command, Conflict, Event, FailureNotice, Join, Joined, KeyBinding, Peer, Terms,
};
use muster_trainer::{checkpoint, dataset, peers, records, safetensors};

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "safetensors", run: tensors, seeds: tensor_seeds },
        Target { name: "checkpoint-manifest", run: checkpoint_manifest, seeds: checkpoint_seeds },
        Target { name: "dataset-manifest", run: dataset_manifest, seeds: dataset_seeds },
        Target { name: "peer-list", run: peer_list, seeds: peer_list_seeds },
        Target { name: "peer-hello", run: hello, seeds: hello_seeds },
        Target { name: "peer-frame", run: frame, seeds: frame_seeds },
        Target { name: "worker-lines", run: lines, seeds: line_seeds },
        Target { name: "scalars", run: scalars, seeds: scalars_seeds },
        Target { name: "handover-line", run: handover_lines, seeds: handover_seeds },
        Target { name: "relay-signed", run: signed, seeds: signed_seeds },
        Target { name: "records", run: step_records, seeds: records_seeds },
        Target { name: "failed-step", run: failed_step, seeds: failed_seeds },
        Target { name: "terms", run: terms, seeds: terms_seeds },
    ]
}

fn tensors(data: &[u8]) {
    if let Ok((header, start)) = safetensors::parse(data) {
        // What is accepted is what we would have written, and it covers the file exactly.
        assert_eq!(header.file_size(), u64::try_from(data.len()).unwrap_or(u64::MAX));
        let again = safetensors::Header::new(
            header.entries().iter().map(|entry| (entry.name.clone(), entry.shape.clone())),
        );
        assert_eq!(again.ok().map(|again| again.bytes()).as_deref(), data.get(..start));
    }
    let _ = safetensors::Header::parse(data).is_ok();
}

fn checkpoint_manifest(data: &[u8]) {
    if let Ok(manifest) = checkpoint::Manifest::parse(data) {
        assert_eq!(manifest.to_bytes().ok().as_deref(), Some(data));
    }
}

fn dataset_manifest(data: &[u8]) {
    if let Ok(manifest) = dataset::Manifest::parse(data) {
        assert_eq!(manifest.to_bytes().ok().as_deref(), Some(data));
        // All of its bytes are in files, and no name leads out of its directory.
        let bytes: u64 = manifest.shards().iter().map(|shard| shard.size).sum();
        assert_eq!(bytes, manifest.tokens() * manifest.dtype().bytes());
        assert!(manifest.files().iter().all(|file| !file.path.contains('/')));
        assert_eq!(
            manifest.files().len() - manifest.shards().len(),
            usize::from(manifest.tokenizer_file().is_some())
        );
    }
}

fn scalars(data: &[u8]) {
    if let Ok(scalars) = checkpoint::Scalars::parse(data) {
        assert_eq!(scalars.to_bytes().ok().as_deref(), Some(data));
        assert!(scalars.beta_products().iter().all(|product| (0.0..=1.0).contains(product)));
    }
}

/// Both directions of the sidecar's socket: lines are read until one is none, and what was read is written in one line.
fn handover_lines(data: &[u8]) {
    let (mut supervisor, mut sidecar) = (data, data);
    while let Ok(Some(line)) = handover::read::<Line>(&mut supervisor) {
        let mut text = Vec::new();
        assert!(handover::write(&mut text, &line).is_ok() && text.len() < handover::MAX_LINE);
    }
    while let Ok(Some(answer)) = handover::read::<Answer>(&mut sidecar) {
        if let Answer::Refused { step, code, message } = answer {
            let mut text = Vec::new();
            assert!(handover::write(&mut text, &Answer::refused(step, code, &message)).is_ok());
            assert!(text.len() < handover::MAX_LINE);
        }
    }
}

/// Bodies of the relay that carry signatures. Nobody guesses one: only the seed's own, with its own token, is good.
fn signed(data: &[u8]) {
    if let Ok(wished) = serde_json::from_slice::<KeyBinding>(data) {
        assert!(binding::check_binding(&wished, "another token").is_err());
        if let Ok(key) = binding::check_binding(&wished, TOKEN) {
            assert_eq!(Some(key.key_id()), signer().map(|key| key.key_id()));
        }
    }
    let (Ok(notice), Some(key), Some(terms)) =
        (serde_json::from_slice::<CheckpointNotice>(data), signer(), own_terms())
    else {
        return;
    };
    if let Ok(id) = commit::check(&notice, &terms, key.public()) {
        assert_eq!(
            (notice.step, notice.manifest, notice.state_root),
            (20, Digest::of(b"m"), Digest::of(b"s"))
        );
        assert_eq!(
            (id, Some(&*notice.records)),
            (notice.commit.record_id(), own_records().as_ref().map(Records::as_slice))
        );
    }
    let other = Terms { previous: Digest::of(b"another"), ..terms };
    assert!(commit::check(&notice, &other, key.public()).is_err());
}

/// What is read are the steps of one interval in their one spelling, with a root.
fn step_records(data: &[u8]) {
    if let Ok(records) = records::parse(data) {
        assert_eq!(records::to_bytes(&records).ok().as_deref(), Some(data));
        let steps = records.as_slice();
        assert!(
            steps.windows(2).all(|two| matches!(two, [a, b] if a.step + 1 == b.step)) && !steps.is_empty()
        );
        assert!(steps.iter().all(|record| record.loss.number().is_finite()));
    }
}

/// What a worker says of a step that is not finite, and what the relay is told of it: the record that is checked is the one of
/// these terms and records, and the state before decides its root.
fn failed_step(data: &[u8]) {
    let (Some(terms), Some(key)) = (own_terms(), signer()) else { return };
    if let Ok(failed) = Failed::parse(data) {
        let taken = u64::try_from(failed.records().as_slice().len()).unwrap_or(u64::MAX);
        assert!(failed.step() > taken);
        let fits = (failed.step(), taken) == (19, 0) || (failed.step(), taken) == (20, 1);
        let signed = failed.sign(&terms, &key);
        assert_eq!(signed.is_ok(), fits);
        if let Ok(notice) = signed {
            assert!(failed::check(&notice, &terms, key.public()).is_ok());
        }
    }
    if let Ok(notice) = serde_json::from_slice::<FailureNotice>(data)
        && let Ok(id) = failed::check(&notice, &terms, key.public())
    {
        assert_eq!((id, notice.before), (notice.failure.record_id(), Digest::of(b"s")));
    }
}

/// Whatever terms a relay gives: a commit that is signed after them is one that they check, and for no other records.
fn terms(data: &[u8]) {
    let _ = serde_json::from_slice::<Conflict>(data).is_ok();
    let (Ok(terms), Some(records), Some(key)) =
        (serde_json::from_slice::<Terms>(data), own_records(), signer())
    else {
        return;
    };
    if let Some(notice) = signed_notice(&terms, &records, &key) {
        assert_eq!((terms.first_step.get(), terms.last_step.get(), notice.step), (19, 20, 20));
        assert!(commit::check(&notice, &terms, key.public()).is_ok());
    }
}

/// What is said of the files is not looked at here.
fn signed_notice(terms: &Terms, records: &Records, key: &SigningKey) -> Option<CheckpointNotice> {
    let model = Envelope::sign("x", b"{}", key).ok()?;
    let reached = Reached { state_root: Digest::of(b"s"), manifest: Digest::of(b"m"), ends: false };
    commit::sign(terms, records, reached, model, key).ok()
}

/// Of the steps 19 and 20.
fn own_records() -> Option<Records> {
    let one = Bits::of(1.0);
    let record = |step| StepRecord { eval_loss: None, grad_norm: one, learning_rate: one, loss: one, step };
    Records::new(19, vec![record(19), record(20)]).ok()
}

fn own_terms() -> Option<Terms> {
    serde_json::from_slice(terms_seeds().first()?).ok()
}

fn terms_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let terms = format!(
        r#"{{"job":"{digest}","island":0,"epoch":1,"interval":4,"firstStep":19,"lastStep":20,"previous":"{digest}","salt":"{}"}}"#,
        digest.to_hex()
    );
    vec![terms.into_bytes(), br#"{"reason":"NotNext","step":20}"#.to_vec()]
}

fn records_seeds() -> Vec<Vec<u8>> {
    own_records().and_then(|records| records::to_bytes(&records).ok()).into_iter().collect()
}

/// Step 20, after step 19.
fn failed_seeds() -> Vec<Vec<u8>> {
    let record = own_records().and_then(|records| records.as_slice().first().copied());
    let failed = Failed::new(20, Digest::of(b"s"), record.into_iter().collect()).ok();
    let signed = own_terms().zip(signer()).zip(failed.as_ref());
    let notice = signed.and_then(|((terms, key), failed)| failed.sign(&terms, &key).ok());
    let file = failed.as_ref().and_then(|failed| failed.to_bytes().ok());
    file.into_iter().chain(notice.and_then(|notice| serde_json::to_vec(&notice).ok())).collect()
}

const TOKEN: &str = "a token";

fn signer() -> Option<SigningKey> {
    SigningKey::generate([7; 32]).ok()
}

fn peer(port: u16) -> Peer {
    Peer { address: SocketAddr::from(([10, 0, 0, 1], port)), key: Digest::of(&port.to_le_bytes()) }
}

/// Signed by the right key: what is believed is for this worker, round and unit, and for nothing else.
fn peer_list(data: &[u8]) {
    let Some(key) = signer() else { return };
    let _ = serde_json::from_slice::<Joined>(data).is_ok();
    // The reader of payloads sees all bytes; to sign those that it refuses would only take time.
    let Ok(list) = jcs::deserialize_canonical::<peers::PeerList>(data) else { return };
    let Ok(envelope) = peers::sign(&list, &key) else { return };
    assert_eq!(envelope.unverified_payload(), data);
    let Peer { address, key: own } = peer(1);
    let expected = peers::Expected {
        unit: "4f2a9c1b-0-1",
        attempt: 1,
        round: 2,
        workers: 2,
        rank: 1,
        address,
        key: own,
    };
    if let Ok(list) = peers::open(&envelope, &[key.public().clone()], &expected) {
        assert!(matches!(list[..], [other, me] if me == peer(1) && other.key != own));
    }
}

fn hello(data: &[u8]) {
    if let Ok(bytes) = <&[u8; HELLO]>::try_from(data)
        && let Some(identity) = Identity::from_hello(bytes)
    {
        assert_eq!(&identity.to_hello(), bytes);
    }
}

/// Frames one after the other: each has the length of its kind, and what was read is what was there.
fn frame(data: &[u8]) {
    let lengths = wire::Lengths { losses: 17, subtrees: 64, slice: 32, evaluation: 20, squares: 12 };
    let (mut rest, mut again) = (data, Vec::new());
    while let Ok(frame) = wire::receive(&mut rest, &lengths) {
        assert!(frame.payload.len() <= 64);
        let _ = wire::send(&mut again, &frame).is_ok();
        assert_eq!(again.get(..), data.get(..data.len() - rest.len()));
    }
}

/// What a worker and its parent read from each other's pipe, and the relay from a pod.
fn lines(data: &[u8]) {
    if let Ok(event) = serde_json::from_slice::<Event>(data) {
        let again =
            serde_json::to_vec(&event).ok().and_then(|json| serde_json::from_slice::<Event>(&json).ok());
        assert_eq!(again, Some(event));
    }
    if let Ok(command) = serde_json::from_slice::<Command>(data) {
        let again = serde_json::to_vec(&command).ok().and_then(|json| serde_json::from_slice(&json).ok());
        assert_eq!(again, Some(command));
    }
    if let Ok(join) = serde_json::from_slice::<Join>(data) {
        let again = serde_json::to_vec(&join).ok().and_then(|json| serde_json::from_slice(&json).ok());
        assert_eq!(again, Some(join));
    }
}

fn peer_list_seeds() -> Vec<Vec<u8>> {
    let list = peers::PeerList {
        format: peers::FORMAT.to_owned(),
        unit: "4f2a9c1b-0-1".to_owned(),
        attempt: 1,
        round: 2,
        peers: vec![peer(0), peer(1)],
    };
    let signed = signer().and_then(|key| peers::sign(&list, &key).ok());
    let payload = signed.as_ref().map(|envelope| envelope.unverified_payload().to_vec());
    let answer = signed.and_then(|peers| serde_json::to_vec(&Joined { peers }).ok());
    payload.into_iter().chain(answer).collect()
}

fn hello_seeds() -> Vec<Vec<u8>> {
    let identity = Identity { rank: 1, workers: 2, step: 20, training_digest: Digest::of(b"x") };
    vec![identity.to_hello().to_vec()]
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for (kind, length) in [
        (wire::Kind::Losses, 17),
        (wire::Kind::KeepAlive, 0),
        (wire::Kind::Subtrees, 64),
        (wire::Kind::Slice, 32),
        (wire::Kind::Evaluation, 20),
    ] {
        let _ = wire::send(&mut bytes, &wire::Frame { kind, step: 4, payload: vec![1; length] }).is_ok();
    }
    vec![bytes]
}

fn line_seeds() -> Vec<Vec<u8>> {
    let Some(public_key) = signer().map(|key| key.public().clone()) else { return Vec::new() };
    let address = peer(1).address;
    let listening = Event::Listening { address, public_key: public_key.clone() };
    let command = Command::Peers { peers: vec![peer(0), peer(1)] };
    [
        serde_json::to_vec(&listening),
        serde_json::to_vec(&command),
        serde_json::to_vec(&Join { address, public_key }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn scalars_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let text = format!(
        r#"{{"b1p":"3fe0000000000000","b2p":"3ff0000000000000","format":"muster.handover/1","step":20,"trainingDigest":"{digest}"}}"#
    );
    vec![text.into_bytes()]
}

fn handover_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let mut supervisor = Vec::new();
    for round in 1..3 {
        drop(handover::write(&mut supervisor, &Line::Written(Written { round, step: 20, keep_last: 3 })));
    }
    let mut sidecar = Vec::new();
    for answer in [
        Answer::Checkpoint { step: 20, state_root: digest, manifest: digest },
        Answer::Durable { step: 20 },
        Answer::refused(40, 67, "other bits"),
    ] {
        drop(handover::write(&mut sidecar, &answer));
    }
    vec![supervisor, sidecar]
}

fn signed_seeds() -> Vec<Vec<u8>> {
    let Some(key) = signer() else { return Vec::new() };
    let notice =
        own_terms().zip(own_records()).and_then(|(terms, records)| signed_notice(&terms, &records, &key));
    let binding = binding::bind(&key, TOKEN).ok().and_then(|binding| serde_json::to_vec(&binding).ok());
    binding.into_iter().chain(notice.and_then(|notice| serde_json::to_vec(&notice).ok())).collect()
}

fn tensor_seeds() -> Vec<Vec<u8>> {
    let header = safetensors::Header::new([("a".to_owned(), vec![2, 3]), ("b.c".to_owned(), vec![1])]);
    let Ok(header) = header else { return Vec::new() };
    let mut file = header.bytes();
    let body = file.get(8..).unwrap_or_default().to_vec();
    file.resize(file.len() + 28, 0);
    vec![file, body]
}

fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let file = |path: &str| checkpoint::FileEntry { path: path.to_owned(), size: 8, sha256: digest };
    let files = checkpoint::FILES.iter().map(|path| file(path)).collect();
    let manifest = checkpoint::Manifest::new(20, digest, digest, [0.5, 0.25], files);
    manifest.ok().and_then(|manifest| manifest.to_bytes().ok()).into_iter().collect()
}

fn dataset_seeds() -> Vec<Vec<u8>> {
    let shard = dataset::Shard { path: "tokens-00000.bin".to_owned(), size: 512, sha256: Digest::of(b"x") };
    let texts = [
        dataset::Text::bytes(),
        dataset::Text::gpt2(),
        dataset::Text::file(b"{}", 300),
        dataset::Text::file(b"{}", 1 << 17),
    ];
    let manifest = |text| dataset::Manifest::of(text, Digest::of(b"y"), vec![shard.clone()]);
    texts.iter().filter_map(|text| manifest(text).ok()?.to_bytes().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        safetensors::parse(&tensor_seeds()[0]).unwrap();
        checkpoint::Manifest::parse(&checkpoint_seeds()[0]).unwrap();
        let datasets = dataset_seeds();
        datasets.iter().for_each(|seed| drop(dataset::Manifest::parse(seed).unwrap()));
        assert_eq!(datasets.len(), 4);
        assert_eq!((peer_list_seeds().len(), line_seeds().len()), (2, 3));
        Identity::from_hello(hello_seeds()[0][..].try_into().unwrap()).unwrap();
        checkpoint::Scalars::parse(&scalars_seeds()[0]).unwrap();
        assert!(handover::read::<Line>(&mut &handover_seeds()[0][..]).unwrap().is_some());
        assert!(handover::read::<Answer>(&mut &handover_seeds()[1][..]).unwrap().is_some());
        let [binding, notice] = &signed_seeds()[..] else { panic!() };
        binding::check_binding(&serde_json::from_slice(binding).unwrap(), TOKEN).unwrap();
        let notice = serde_json::from_slice::<CheckpointNotice>(notice).unwrap();
        commit::check(&notice, &own_terms().unwrap(), signer().unwrap().public()).unwrap();
        records::parse(&records_seeds()[0]).unwrap();
        let [file, notice] = &failed_seeds()[..] else { panic!() };
        assert_eq!(Failed::parse(file).unwrap().step(), 20);
        let notice = serde_json::from_slice::<FailureNotice>(notice).unwrap();
        failed::check(&notice, &own_terms().unwrap(), signer().unwrap().public()).unwrap();
        serde_json::from_slice::<Conflict>(&terms_seeds()[1]).unwrap();
    }
}
