//! All checks of a bundle, in their order. Total: hostile files end in a report.

use super::log;
use super::{Bundle, FILE, FileRef, Files, Head, MAX_FILE, MAX_LIST, Report, job};
use crate::Digest;
use crate::records::fields::JobId;
use crate::tlog::checkpoint::SignedCheckpoint;
use crate::tlog::note::VerifierKey;
use crate::tlog::policy::{self, Accepted, Policy};

/// Whom the verifier believes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// A policy of his own. With `hub` not empty, the log's first set of the hub's keys must have one of these key ids; else
    /// the log's key stands for it.
    Policy {
        /// Logs, witnesses and quorum.
        policy: Policy,
        /// Key ids.
        hub: Vec<Digest>,
    },
    /// The bundle's own hints: shows that it fits together, not that it is true.
    Bundle,
}

/// What the verifier wants beyond.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The bundle must be of this job.
    pub job: Option<JobId>,
}

/// Files of which the digest is taken before a byte is believed.
pub(super) struct Reader<'a>(&'a dyn Files);

impl Reader<'_> {
    /// A file's bytes, if they are the listed ones.
    pub fn read(&self, file: &FileRef) -> Option<Vec<u8>> {
        if file.size > MAX_FILE {
            return None;
        }
        let bytes = self.0.read(&file.name(), file.size).ok().flatten()?;
        (FileRef::of(&bytes) == *file).then_some(bytes)
    }
}

/// Checks a bundle: its files, the log, the records, the job and its states.
pub fn verify_bundle(files: &dyn Files, trust: &Trust, options: Options) -> Report {
    let mut report = Report::new(matches!(trust, Trust::Bundle));
    let list = match files.read(FILE, MAX_LIST as u64) {
        Ok(Some(list)) => list,
        Ok(None) => {
            report.lacks(
                "bundle",
                "there is no list of files; is this the directory of a bundle?",
                Some(FILE),
            );
            return report;
        }
        Err(error) => {
            report.lacks("bundle", format!("cannot be read: {error}"), Some(FILE));
            return report;
        }
    };
    let bundle = match Bundle::parse(&list) {
        Ok(bundle) => bundle,
        Err(error) => {
            report.refute("bundle", error.to_string(), Some(FILE));
            return report;
        }
    };
    report.holds("bundle", format!("the list of job {}", bundle.job.0));
    if options.job.is_some_and(|job| job != bundle.job) {
        report.refute(
            "bundle",
            format!("it is of job {}, which is not the one that was asked for", bundle.job.0),
            Some(FILE),
        );
    }
    let reader = Reader(files);
    digests(&mut report, files, &bundle);
    let Some(accepted) = checkpoint(&mut report, &reader, &bundle, trust) else {
        report
            .words
            .push("Without a checkpoint that the policy accepts, nothing else was looked at.".to_owned());
        return report;
    };
    let head = accepted.checkpoint.checkpoint();
    report.head = Some(Head {
        origin: head.origin().to_owned(),
        size: head.size(),
        root: *head.root(),
        cosigned: accepted.cosigned.clone(),
    });
    if head.origin() != bundle.origin.as_str() {
        let what = format!("origin is {}, the checkpoint is of {}", bundle.origin, head.origin());
        report.refute("bundle", what, Some(FILE));
        return report;
    }
    let opened = log::open(&mut report, &reader, &bundle, head);
    let pins = match trust {
        Trust::Policy { hub, .. } => hub.as_slice(),
        Trust::Bundle => &[],
    };
    job::check(&mut report, &reader, &bundle, &opened, pins);
    report
}

/// Every listed file is there and has its digest.
fn digests(report: &mut Report, files: &dyn Files, bundle: &Bundle) {
    let listed = bundle.files();
    let mut wrong = 0;
    for (role, file) in &listed {
        let name = file.name();
        let what = match files.digest(&name) {
            Ok(Some((digest, size))) if (digest, size) == (file.sha256, file.size) => continue,
            Ok(Some((digest, _))) if digest == file.sha256 => {
                let what =
                    format!("{role}: the list says that {name} has {} bytes, which it has not", file.size);
                report.refute("files", what, Some(FILE));
                wrong += 1;
                continue;
            }
            Ok(Some((digest, _))) => format!("{role}: its bytes are not those of its name, but {digest}"),
            Ok(None) => {
                report.lacks("files", format!("{role}: {FILE} lists it, and it is not there"), Some(&name));
                wrong += 1;
                continue;
            }
            Err(error) => {
                report.lacks("files", format!("{role}: it cannot be read: {error}"), Some(&name));
                wrong += 1;
                continue;
            }
        };
        report.refute("files", what, Some(&name));
        wrong += 1;
    }
    if wrong == 0 {
        report.holds("files", format!("{} files have the digests that name them", listed.len()));
    }
}

/// The head, if it is one to believe.
fn checkpoint(report: &mut Report, reader: &Reader<'_>, bundle: &Bundle, trust: &Trust) -> Option<Accepted> {
    let file = bundle.checkpoint.name();
    let Some(bytes) = reader.read(&bundle.checkpoint) else {
        report.lacks("checkpoint", "it cannot be read", Some(&file));
        return None;
    };
    let hinted = hints(report, bundle, &bytes);
    let policy = match trust {
        Trust::Policy { policy, .. } => policy.clone(),
        Trust::Bundle => hinted?,
    };
    match policy.check(&bytes) {
        Ok(accepted) => {
            let head = accepted.checkpoint.checkpoint();
            let by = match (policy.quorum(), accepted.cosigned.len()) {
                (None, _) => "no witness was asked for".to_owned(),
                (Some(quorum), n) => format!("{n} witnesses cosigned it, enough for {quorum}"),
            };
            report.holds("checkpoint", format!("{} entries of {}; {by}", head.size(), head.origin()));
            Some(accepted)
        }
        // The log has signed it, but not enough others have seen it.
        Err(error @ policy::Error::Quorum { .. }) => {
            report.lacks("checkpoint", error.to_string(), Some(&file));
            let logs: Vec<VerifierKey> = policy.logs().iter().map(|log| log.key.clone()).collect();
            let checkpoint = SignedCheckpoint::open(&bytes, &logs).ok()?;
            let mut cosigned = std::collections::BTreeMap::new();
            for witness in policy.witnesses() {
                if let Ok(Some(time)) = checkpoint.cosigned_by(&witness.key) {
                    cosigned.insert(witness.name.clone(), time);
                }
            }
            Some(Accepted { checkpoint, cosigned })
        }
        Err(error) => {
            report.refute("checkpoint", error.to_string(), Some(&file));
            None
        }
    }
}

/// The policy of the bundle's hints, which must at least be true of its checkpoint.
fn hints(report: &mut Report, bundle: &Bundle, checkpoint: &[u8]) -> Option<Policy> {
    match hinted_policy(bundle, checkpoint) {
        Ok(policy) => {
            report.holds("hints", "the keys that the bundle names have signed its checkpoint");
            Some(policy)
        }
        Err(what) => {
            report.refute("hints", what, Some(FILE));
            None
        }
    }
}

fn hinted_policy(bundle: &Bundle, checkpoint: &[u8]) -> Result<Policy, String> {
    let key: VerifierKey = bundle.hints.log.parse().map_err(|error| format!("hints.log: {error}"))?;
    let signed = SignedCheckpoint::open(checkpoint, std::slice::from_ref(&key));
    let signed = signed.map_err(|error| format!("hints.log: {error}"))?;
    let (mut text, mut names) = (format!("log {key}\n"), String::new());
    for (at, witness) in bundle.hints.witnesses.iter().enumerate() {
        let witness: VerifierKey = witness.parse().map_err(|error| format!("hints.witnesses: {error}"))?;
        match signed.cosigned_by(&witness) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(format!("hints.witnesses: {witness} has not cosigned the checkpoint")),
            Err(error) => return Err(format!("hints.witnesses: {error}")),
        }
        text.push_str(&format!("witness hint-{at} {witness}\n"));
        names.push_str(&format!(" hint-{at}"));
    }
    text.push_str(&match names.as_str() {
        "" => "quorum none\n".to_owned(),
        names => format!("group hints all{names}\nquorum hints\n"),
    });
    text.parse().map_err(|error: policy::PolicyError| format!("hints: {error}"))
}
