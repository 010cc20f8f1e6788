//! `muster model`: weights that jobs begin with, into a hub (docs/spec/export.md).
use super::data::{label, table};
use super::output::print;
use super::push::{Destination, Part, Upload};
use super::remote::Remote;
use super::run::block_on;
use super::transfer::Transfer;
use super::{Failure, Outcome};
use crate::runtime::sanitise;
use crate::store::Asset;
use crate::wire::gateway::Models;
use clap::{Args, Subcommand};
use muster_numerics::spec::{Architecture, ModelSpec};
use muster_trainer::checkpoint::{self, CONFIG_FILE};
use muster_trainer::hf;
use muster_trainer::protocol::ExitCode;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct ModelCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send weights to the hub, under a name that jobs of the namespace use as spec.init.model
    Push(Box<Push>),
    /// List the models of a namespace
    List(Box<List>),
}

#[derive(Debug, Args)]
struct Push {
    #[command(flatten)]
    to: Destination,
    /// Directory of Hugging Face's form (GPT-2 or Llama, safetensors), a checkpoint, or a run: its newest checkpoint
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct List {
    /// The namespace
    #[arg(long, short, value_name = "NAME")]
    namespace: String,
    #[command(flatten)]
    remote: Remote,
}

impl ModelCommand {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Push(push) => push.run(),
            Verb::List(list) => block_on(list.run())?,
        }
    }
}

impl Push {
    fn run(self) -> Outcome {
        self.to.check()?;
        let Weights { dir, manifest } = read(&self.dir)?;
        let parts = manifest.files().iter().map(|file| {
            let (path, sha256, size) = (dir.join(&file.path), file.sha256, file.size);
            Part { path, sha256, size }
        });
        let upload = Upload {
            asset: Asset::Model,
            manifest: manifest.to_bytes().map_err(|error| bad(ExitCode::BadCheckpoint, &error))?,
            parts: parts.collect(),
            description: format!("{}, StateRoot {}", shape(manifest.model()), manifest.state_root()),
            corrupt: ExitCode::BadCheckpoint.code(),
        };
        block_on(self.to.send(&upload))?
    }
}

impl List {
    async fn run(self) -> Outcome {
        let path = format!("/v1/namespaces/{}/models", label(&self.namespace)?);
        let list: Models = self.remote.connect().await?.get(&path).await?;
        let mut rows = vec![["NAMESPACE", "NAME", "MODEL", "BYTES", "DIGEST"].map(String::from)];
        for one in list.models {
            let name = sanitise::line(&one.name, 63);
            let (bytes, digest) = (one.bytes.to_string(), one.manifest.to_string());
            rows.push([self.namespace.clone(), name, shape(&one.model), bytes, digest]);
        }
        print(&table(&rows))?;
        Ok(0)
    }
}

/// Weights to begin with, read to the last bit.
pub(super) struct Weights {
    /// Where the files are.
    pub dir: PathBuf,
    /// What names them.
    pub manifest: hf::Manifest,
}

/// Reads a directory of Hugging Face's form, or a checkpoint of ours.
pub(super) fn read(dir: &Path) -> Result<Weights, Failure> {
    // The directory of a run has its model below.
    let dir = match dir.join(CONFIG_FILE).exists() {
        true => dir.to_owned(),
        false => checkpoint::resolve_dir(dir).unwrap_or_else(|_| dir.to_owned()),
    };
    if !hf::is_foreign(&dir) && dir.join(CONFIG_FILE).exists() {
        // It says what it is to the last bit: then it shall be that.
        checkpoint::open(&dir).map_err(|error| bad(ExitCode::BadCheckpoint, &error))?;
    }
    let bar = Transfer::start("reading weights", hf::bytes_of(&dir));
    let mut progress = |bytes| bar.add(bytes);
    let manifest =
        hf::open(&dir, &mut progress).and_then(|(_, _, state)| hf::Manifest::of(&dir, &state, &mut progress));
    bar.end();
    let manifest = manifest.map_err(|error| bad(ExitCode::BadCheckpoint, &error))?;
    Ok(Weights { dir, manifest })
}

fn shape(model: &ModelSpec) -> String {
    let name = match model.architecture {
        Architecture::Gpt2 => "gpt2",
        Architecture::Llama => "llama",
    };
    let ModelSpec { layers, width, heads, context, vocabulary, .. } = model;
    format!("{name} {layers}x{width}, {heads} heads, context {context}, vocabulary {vocabulary}")
}

fn bad(code: ExitCode, error: &dyn std::error::Error) -> Failure {
    Failure::with_code(code.code(), error.to_string())
}
