//! `muster verify checkpoint`: a checkpoint's directory by itself, and what its signature and its place in the log say.
use std::path::{Path, PathBuf};

use clap::Args;
use muster_proof::Digest;
use muster_proof::bundle::{Outcome as Came, Report};
use muster_proof::commit_proof::{self, Proven, State};
use muster_proof::key::PublicKey;
use muster_proof::model_signing::{self, Signed};
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::policy::{self, Policy};
use muster_proof::tlog::proof::{self, LogProof, MAX_BYTES};
use muster_trainer::checkpoint::{self, MANIFEST_FILE, MAX_MANIFEST, Manifest, signed_files};

use super::{show, trust};
use crate::cli::output::Output;
use crate::cli::{Failure, Outcome};
use crate::runtime::files::read_capped;

/// Most bytes of a `model.sig`.
const MAX_SIGNATURE: u64 = 2 << 20;
/// The proof that `model.sig` is in a log, beside it: others may have made one.
const MODEL_PROOF: &str = "model.tlog-proof";

/// Checks a checkpoint.
#[derive(Debug, Args)]
pub struct CheckpointVerify {
    /// The checkpoint's directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The StateRoot that it must have
    #[arg(long, value_name = "sha256:HEX")]
    state_root: Option<Digest>,
    /// A key whose signature `model.sig` may be, PEM [default: the key of the commit that `commit.tlog-proof` proves]
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Logs, witnesses and quorum to believe for `commit.tlog-proof` and `model.tlog-proof`, as C2SP tlog-policy
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// `text` for people, `json` for the report as docs/spec/bundle.md has it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

impl CheckpointVerify {
    pub fn run(self) -> Outcome {
        let mut report = Report::new(false);
        let manifest = self.state(&mut report);
        if let Some(manifest) = &manifest {
            let policy = self.policy.as_deref().map(trust::policy).transpose()?;
            let digest = Digest::of(&read_capped(&self.dir.join(MANIFEST_FILE), MAX_MANIFEST)?);
            let proven = self.commit(&mut report, manifest, &digest, policy.as_ref())?;
            let files = signed_files(manifest, &digest);
            self.signature(&mut report, &files, policy.as_ref(), proven.as_ref())?;
            report.words.push(format!(
                "The state after step {} of training {} is {}. That the training leads to it, only a replay shows.",
                manifest.step(),
                manifest.training_digest(),
                manifest.state_root()
            ));
        }
        show(&report, self.output)
    }

    /// Manifest, files, and the root out of the tensors.
    fn state(&self, report: &mut Report) -> Option<Manifest> {
        match checkpoint::open(&self.dir) {
            Ok((.., manifest)) => {
                let what = format!("files and tensors have StateRoot {}", manifest.state_root());
                report.add("state-roots", Came::Holds, what, None);
                if let Some(want) = self.state_root.filter(|want| *want != manifest.state_root()) {
                    report.add(
                        "state-roots",
                        Came::Refuted,
                        format!("want StateRoot {want}"),
                        Some(MANIFEST_FILE),
                    );
                }
                Some(manifest)
            }
            Err(error) => {
                let there = self.dir.join(MANIFEST_FILE).is_file();
                let outcome = if there && error.is_damage() { Came::Refuted } else { Came::Incomplete };
                report.add("state-roots", outcome, error.to_string(), None);
                None
            }
        }
    }

    /// The commit of this state in the log, if the proof of it is there and somebody is to be believed.
    fn commit(
        &self,
        report: &mut Report,
        manifest: &Manifest,
        digest: &Digest,
        policy: Option<&Policy>,
    ) -> Result<Option<Proven>, Failure> {
        let path = self.dir.join(commit_proof::FILE);
        let file = Some(commit_proof::FILE);
        let is_there = path.symlink_metadata().is_ok();
        let Some(policy) = policy else {
            if is_there {
                report.words.push(format!("{} was not looked at: give --policy.", commit_proof::FILE));
            }
            return Ok(None);
        };
        if !is_there {
            if !self.dir.join(MODEL_PROOF).exists() {
                report.add("logged", Came::Incomplete, "there is no proof that the log has its commit", file);
            }
            return Ok(None);
        }
        let bytes = read_capped(&path, MAX_BYTES as u64)?;
        let state = State { manifest: *digest, step: manifest.step(), state_root: manifest.state_root() };
        match commit_proof::verify(&bytes, &state, policy) {
            Ok(proven) => {
                let head = proven.accepted.checkpoint.checkpoint();
                let what = format!(
                    "its commit, signed by key {}, is entry {} of {}, under {} entries",
                    proven.key.key_id(),
                    proven.index,
                    head.origin(),
                    head.size()
                );
                report.add("logged", Came::Holds, what, None);
                Ok(Some(proven))
            }
            Err(error @ commit_proof::Error::Proof(proof::Error::Policy(policy::Error::Quorum { .. }))) => {
                report.add("logged", Came::Incomplete, error.to_string(), file);
                Ok(None)
            }
            Err(error) => {
                report.add("logged", Came::Refuted, error.to_string(), file);
                Ok(None)
            }
        }
    }

    /// The signature of the files: by one of the given keys, else by the key with which the log has the commit.
    fn signature(
        &self,
        report: &mut Report,
        files: &[(&str, Digest)],
        policy: Option<&Policy>,
        proven: Option<&Proven>,
    ) -> Result<(), Failure> {
        let file = Some(model_signing::FILE);
        let path = self.dir.join(model_signing::FILE);
        if path.symlink_metadata().is_err() {
            if !self.key.is_empty() {
                report.add("signature", Came::Incomplete, "there is no signature of the files", file);
            }
            return Ok(());
        }
        let given: Result<Vec<PublicKey>, Failure> = self.key.iter().map(|path| key(path)).collect();
        let (trusted, whose) = match (given?, proven) {
            (keys, _) if !keys.is_empty() => (keys, ""),
            (_, Some(proven)) => (vec![proven.key.clone()], ", with which the log has the commit,"),
            (_, None) => {
                let what =
                    "give --key to check it, or --policy if the log's proof of the commit lies beside it";
                report.add("signature", Came::Incomplete, what, file);
                return Ok(());
            }
        };
        let bytes = read_capped(&path, MAX_SIGNATURE)?;
        let signed = match model_signing::verify(&bytes, files, &trusted) {
            Ok(signed) => signed,
            Err(error) => {
                report.add("signature", Came::Refuted, error.to_string(), file);
                return Ok(());
            }
        };
        let what = format!("key {}{whose} signed all files", signed.key().key_id());
        report.add("signature", Came::Holds, what, None);
        if !whose.is_empty() {
            report.words.push(
                "That this key counted for the job at that place, the log says by having taken the commit; \
                 `muster verify bundle` shows it."
                    .to_owned(),
            );
        }
        match policy {
            Some(policy) if self.dir.join(MODEL_PROOF).exists() => self.model_proof(report, &signed, policy),
            _ => Ok(()),
        }
    }

    /// The place of the signature itself in some log.
    fn model_proof(&self, report: &mut Report, signed: &Signed, policy: &Policy) -> Result<(), Failure> {
        let bytes = read_capped(&self.dir.join(MODEL_PROOF), MAX_BYTES as u64)?;
        let proven = Entry::of(signed.bundle().envelope(), signed.key()).map_err(|error| error.to_string());
        let proven = proven.and_then(|entry| {
            let proof = LogProof::parse(&bytes).map_err(|error| error.to_string())?;
            proof.verify(&entry.leaf(), policy).map_err(|error| error.to_string())
        });
        match proven {
            Ok(accepted) => {
                let head = accepted.checkpoint.checkpoint();
                let what = format!("the signature is in {}, under {} entries", head.origin(), head.size());
                report.add("logged", Came::Holds, what, None);
            }
            Err(error) => report.add("logged", Came::Refuted, error, Some(MODEL_PROOF)),
        }
        Ok(())
    }
}

fn key(path: &Path) -> Result<PublicKey, Failure> {
    let pem = String::from_utf8(read_capped(path, 1 << 16)?);
    let key = pem.ok().and_then(|pem| PublicKey::from_pem(&pem).ok());
    key.ok_or_else(|| Failure::usage(format!("--key {}: not a public P-256 key in PEM", path.display())))
}
