//! `muster crd`: the CustomResourceDefinitions, generated from the types that the program itself uses.
use super::Outcome;
use super::output::line;
use crate::runtime::files::{Access, write_atomic};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct CrdCommand {
    /// Write one file per kind into this directory instead of printing all
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl CrdCommand {
    pub fn run(self) -> Outcome {
        let files = muster_api::crd_yaml()?;
        match self.out {
            Some(dir) => {
                std::fs::create_dir_all(&dir)?;
                for file in files {
                    write_atomic(&dir.join(&file.name), file.text.as_bytes(), Access::Public)?;
                }
            }
            None => {
                for file in files {
                    line(format_args!("---\n{}", file.text.trim_end()))?;
                }
            }
        }
        Ok(0)
    }
}
