//! `muster log`: the gateway's transparency log as files. For whoever runs the hub; what others check needs no files
//! (docs/spec/log.md).
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::output::{line, note};
use super::{Failure, Outcome};
use crate::log::{Home, fsck};

/// Check or repair the log that a gateway keeps.
#[derive(Debug, Args)]
pub struct LogCommand {
    #[command(subcommand)]
    verb: LogVerb,
}

#[derive(Debug, Subcommand)]
enum LogVerb {
    /// Read everything and say what is wrong, by file; the gateway may run meanwhile
    Fsck {
        /// The directory `log` in the gateway's --state
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Make tiles and head anew from entries and envelopes, with the gateway stopped
    Rebuild {
        /// The directory `log` in the gateway's --state
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

impl LogCommand {
    pub fn run(self) -> Outcome {
        match self.verb {
            LogVerb::Fsck { dir } => {
                let (disk, key) = Home::look(&dir)?;
                let report = fsck::check(&disk, key.public())?;
                for problem in &report.problems {
                    line(problem)?;
                }
                note(format_args!(
                    "{}: {} entries read, {} problems, {} envelopes without an entry (harmless)",
                    key.public(),
                    report.entries,
                    report.problems.len(),
                    report.orphans
                ));
                Ok(u8::from(!report.problems.is_empty()))
            }
            LogVerb::Rebuild { dir } => {
                let home = Home::existing(&dir)?;
                let disk = home.disk();
                let entries = fsck::rebuild(&disk, home.key())
                    .map_err(|error| Failure::new(format!("{}: {error}", dir.display())))?;
                note(format_args!("tiles and head of {entries} entries are made anew"));
                Ok(0)
            }
        }
    }
}
