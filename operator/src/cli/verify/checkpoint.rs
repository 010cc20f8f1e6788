//! `muster verify checkpoint`: a checkpoint's directory by itself, and what its signature and its place in the log say.
use std::path::{Path, PathBuf};

use clap::Args;
use muster_proof::Digest;
use muster_proof::bundle::{Outcome as Came, Report};
use muster_proof::key::PublicKey;
use muster_proof::model_signing;
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::proof::{LogProof, MAX_BYTES};
use muster_trainer::checkpoint::{self, MANIFEST_FILE, MAX_MANIFEST, Manifest};

use super::{show, trust};
use crate::cli::output::Output;
use crate::cli::{Failure, Outcome};
use crate::runtime::files::read_capped;

/// Most bytes of a `model.sig`.
const MAX_SIGNATURE: u64 = 2 << 20;
/// The proof that `model.sig` is in the log, beside it.
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
    /// A key whose signature `model.sig` may be, PEM
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Logs, witnesses and quorum to believe for `model.tlog-proof`, as C2SP tlog-policy
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
            if self.dir.join(model_signing::FILE).exists() {
                self.signature(&mut report, manifest)?;
            }
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

    fn signature(&self, report: &mut Report, manifest: &Manifest) -> Result<(), Failure> {
        let file = Some(model_signing::FILE);
        if self.key.is_empty() {
            report.add("signature", Came::Incomplete, "give --key to check it", file);
            return Ok(());
        }
        let keys: Result<Vec<PublicKey>, Failure> = self.key.iter().map(|path| key(path)).collect();
        let bytes = read_capped(&self.dir.join(model_signing::FILE), MAX_SIGNATURE)?;
        let own = read_capped(&self.dir.join(MANIFEST_FILE), MAX_MANIFEST)?;
        let mut files: Vec<(&str, Digest)> =
            manifest.files().iter().map(|file| (file.path.as_str(), file.sha256)).collect();
        files.push((MANIFEST_FILE, Digest::of(&own)));
        let signed = match model_signing::verify(&bytes, &files, &keys?) {
            Ok(signed) => signed,
            Err(error) => {
                report.add("signature", Came::Refuted, error.to_string(), file);
                return Ok(());
            }
        };
        report.add("signature", Came::Holds, format!("key {} signed all files", signed.key().key_id()), None);
        let Some(policy) = &self.policy else { return Ok(()) };
        let policy = trust::policy(policy)?;
        let Ok(bytes) = read_capped(&self.dir.join(MODEL_PROOF), MAX_BYTES as u64) else {
            report.add(
                "logged",
                Came::Incomplete,
                "there is no proof that the signature is in the log",
                Some(MODEL_PROOF),
            );
            return Ok(());
        };
        let proven = Entry::of(signed.bundle().envelope(), signed.key()).map_err(|error| error.to_string());
        let proven = proven.and_then(|entry| {
            let proof = LogProof::parse(&bytes).map_err(|error| error.to_string())?;
            proof.verify(&entry.leaf(), &policy).map_err(|error| error.to_string())
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
