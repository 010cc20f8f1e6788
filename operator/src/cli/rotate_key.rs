//! `muster hub rotate-key`: hands the hub's signature on to a new key, in the hub's state directory, while the hub runs.
use super::Outcome;
use super::output::{line, note};
use crate::hub::state::{Change, rotate};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct RotateKey {
    /// The hub's --state
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Make no new key; let agents believe none but the one that signs now
    #[arg(long)]
    retire: bool,
}

impl RotateKey {
    pub fn run(self) -> Outcome {
        let change = if self.retire { Change::Retire } else { Change::Add };
        let keys = rotate(&self.state, change)?;
        let set = keys.set();
        note(format_args!(
            "key set {}: agents believe {} of the hub's keys. A running hub publishes it within 5 s and signs with the newest \
             key 15 s later",
            set.serial(),
            set.keys().len()
        ));
        if set.keys().len() > 1 {
            note(format_args!(
                "Once no unit that an older key has signed runs any more: muster hub rotate-key --state {} --retire",
                self.state.display()
            ));
        }
        line(format_args!("keyid {}", keys.signer().key_id()))?;
        Ok(0)
    }
}
