//! Writes what tests/interop/sigstore gives to other tools: signed checkpoint directories and the log's proofs.
//!
//! ```text
//! cargo run -p muster-proof --example interop_sigstore -- DIR
//!   DIR/signed/step-00000020/   a checkpoint with model.sig, not logged
//!   DIR/logged/step-00000020/   the same with a log entry, and files beside it
//!   DIR/first/step-00000020/    the same, alone in its log
//!   DIR/key.pem, other.pem      the signer's public key, and a stranger's
//!   DIR/log.vkey, other.vkey    the log's verifier key, and another of the same name
//! ```
//!
//! Keys are made of constants: nothing here is to be trusted.

use std::error::Error;
use std::fs;
use std::path::Path;

use muster_proof::key::SigningKey;
use muster_proof::sigstore::{Bundle, LogEntry};
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::{Digest, merkle, model_signing};

/// The log's name.
const ORIGIN: &str = "hub.example/log";
/// The directory of the checkpoint.
const STEP: &str = "step-00000020";

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: interop_sigstore DIR")?;
    let dir = Path::new(&dir);
    let key = SigningKey::generate([1; 32])?;
    let log = NoteKey::new(KeyName::new(ORIGIN)?, Algorithm::Ed25519, [9; 32]);
    let files = contents();
    let digests: Vec<_> = files.iter().map(|(name, bytes)| (*name, Digest::of(bytes))).collect();
    let bundle = model_signing::sign(&digests, STEP, &key)?;

    write_checkpoint(&dir.join("signed"), &files, &bundle)?;
    let logged = logged(&bundle, &key, &log, 271, 300)?;
    let at = write_checkpoint(&dir.join("logged"), &files, &logged)?;
    for beside in model_signing::IGNORED.iter().filter(|name| **name != model_signing::FILE) {
        fs::write(at.join(beside), "not signed, and not part of the model\n")?;
    }
    write_checkpoint(&dir.join("first"), &files, &self::logged(&bundle, &key, &log, 0, 1)?)?;

    fs::write(dir.join("key.pem"), key.public().to_pem()?)?;
    fs::write(dir.join("other.pem"), SigningKey::generate([2; 32])?.public().to_pem()?)?;
    fs::write(dir.join("log.vkey"), format!("{}\n", log.public()))?;
    let other = NoteKey::new(KeyName::new(ORIGIN)?, Algorithm::Ed25519, [8; 32]);
    fs::write(dir.join("other.vkey"), format!("{}\n", other.public()))?;

    // What others are asked to accept we accept ourselves.
    let signed = model_signing::verify(&logged.to_json()?, &digests, &[key.public().clone()])?;
    signed.bundle().verify_logged(signed.key(), log.public())?;
    Ok(())
}

/// Files of a checkpoint's names; the tools read bytes, not tensors.
fn contents() -> Vec<(&'static str, Vec<u8>)> {
    let tensors = |n: usize| (0..n).map(|i| (i % 251) as u8).collect::<Vec<_>>();
    vec![
        ("config.json", b"{}".to_vec()),
        ("manifest.json", b"{\"format\":\"muster.checkpoint/1\"}".to_vec()),
        ("model.safetensors", tensors(66_112)),
        ("optimizer.safetensors", tensors(130_816)),
    ]
}

fn write_checkpoint(
    parent: &Path,
    files: &[(&str, Vec<u8>)],
    bundle: &Bundle,
) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let at = parent.join(STEP);
    fs::create_dir_all(&at)?;
    for (name, bytes) in files {
        fs::write(at.join(name), bytes)?;
    }
    fs::write(at.join(model_signing::FILE), bundle.to_json()?)?;
    Ok(at)
}

/// The bundle with the entry as number `index` in a log of `size` leaves. The checkpoint has a signature line of a
/// witness whom nobody knows, as real ones will.
fn logged(
    bundle: &Bundle,
    key: &SigningKey,
    log: &NoteKey,
    index: usize,
    size: usize,
) -> Result<Bundle, Box<dyn Error>> {
    let entry = Entry::of(bundle.envelope(), key.public())?;
    let mut leaves: Vec<_> = (0..size).map(|i| merkle::leaf(format!("entry {i}").as_bytes())).collect();
    *leaves.get_mut(index).ok_or("no such entry")? = entry.leaf();
    let path = merkle::prove(&leaves, index).ok_or("no such entry")?;
    let head = Checkpoint::new(ORIGIN, size as u64, merkle::root_of_hashes(&leaves))?;
    let head = SignedCheckpoint::sign(head, log)?;
    let cosigned = format!("{head}\u{2014} witness.example {}==\n", "A".repeat(102));
    let head = SignedCheckpoint::open(cosigned.as_bytes(), std::slice::from_ref(log.public()))?;
    Ok(bundle.clone().with_entry(LogEntry::new(&entry, index as u64, path, &head, log.public())?))
}
