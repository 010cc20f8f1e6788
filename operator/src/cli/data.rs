//! `muster data`: from text to a dataset, and into a hub.
mod prepare;

use super::output::{line, note, print};
use super::push::{Destination, Part, Upload};
use super::remote::Remote;
use super::run::block_on;
use super::transfer::Transfer;
use super::{Failure, Outcome};
use crate::runtime::client::{Target, within};
use crate::runtime::files::read_capped;
use crate::runtime::sanitise;
use crate::store::{Asset, Location, Namespace, Store, is_dns_label};
use crate::wire::gateway::Datasets;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use muster_trainer::dataset::{self, MANIFEST_FILE, MAX_MANIFEST, Manifest};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct DataCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a dataset of text files
    Prepare(prepare::Prepare),
    /// Check a dataset and put it into a hub's store under a name of a namespace (on the hub's machine)
    Import {
        /// Namespace of the tenant and name that jobs use
        #[arg(value_name = "NAMESPACE/NAME")]
        name: String,
        /// The dataset
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The hub's store
        #[arg(long, value_name = "DIR|URL")]
        store: Location,
        /// metadata.uid of the namespace [default: asks the hub's API server]
        #[arg(long, value_name = "UID")]
        namespace_uid: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Send a dataset to the hub, under a name that jobs of the namespace use
    Push(Box<Push>),
    /// List the datasets of a namespace, or of a hub's store
    List(Box<List>),
}

#[derive(Debug, Args)]
struct Push {
    #[command(flatten)]
    to: Destination,
    /// The dataset
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct List {
    /// The namespace
    #[arg(long, short, value_name = "NAME", required_unless_present = "store")]
    namespace: Option<String>,
    /// The hub's store, on the hub's machine [default: ask the hub's gateway]
    #[arg(long, value_name = "DIR|URL")]
    store: Option<Location>,
    #[command(flatten)]
    remote: Remote,
}

impl DataCommand {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Prepare(prepare) => prepare.run(),
            Verb::Import { name, dir, store, namespace_uid, target } => {
                block_on(import(&name, &dir, &store, namespace_uid, &target))?
            }
            Verb::Push(push) => push.run(),
            Verb::List(list) => match list.store {
                Some(store) => block_on(list_store(&store, list.namespace))?,
                None => block_on(list_remote(&list.remote, &list.namespace.unwrap_or_default()))?,
            },
        }
    }
}

async fn import(name: &str, dir: &Path, store: &Location, uid: Option<String>, target: &Target) -> Outcome {
    let (namespace, name) = split(name)?;
    label(namespace)?;
    if !dir.join(MANIFEST_FILE).is_file() {
        return Err(dataset::Error::Missing(dir.display().to_string()).into());
    }
    let uid = match uid {
        Some(uid) => uid,
        None => uid_of(namespace, target).await?,
    };
    let namespace = &Namespace::new(namespace, &uid)?;
    let busy = Busy::start("checking and copying");
    let store = Store::open(store).await?;
    let digest = store.import_dataset(namespace, name, dir).await?;
    busy.end();
    if let Some(manifest) = store.dataset_manifest(&digest).await? {
        note(format_args!("{namespace}/{name}: {}", describe(&manifest)));
    }
    line(digest)?;
    Ok(0)
}

impl Push {
    fn run(self) -> Outcome {
        self.to.check()?;
        let upload = self.read()?;
        block_on(self.to.send(&upload))?
    }

    /// Of the files only their sizes are looked at: the gateway hashes what it gets.
    fn read(&self) -> Result<Upload, Failure> {
        let path = self.dir.join(MANIFEST_FILE);
        if !path.is_file() {
            return Err(dataset::Error::Missing(self.dir.display().to_string()).into());
        }
        let bytes = read_capped(&path, MAX_MANIFEST)?;
        let manifest = Manifest::parse(&bytes)?;
        let mut parts = Vec::new();
        for dataset::Shard { path, size, sha256 } in manifest.files() {
            let path = self.dir.join(path);
            let there = path.metadata().map_err(|e| Failure::new(format!("{}: {e}", path.display())))?.len();
            if there != size {
                let problem = format!("has {there} bytes, the manifest says {size}");
                return Err(dataset::Error::Corrupt { path: path.display().to_string(), problem }.into());
            }
            parts.push(Part { path, sha256, size });
        }
        let (asset, description) = (Asset::Dataset, describe(&manifest));
        Ok(Upload { asset, manifest: bytes, parts, description, corrupt: 1 })
    }
}

/// A dataset belongs to the namespace that is there now, not to whoever has its name later.
async fn uid_of(namespace: &str, target: &Target) -> Result<String, Failure> {
    let api: Api<core::Namespace> = Api::all(target.client().await?);
    let found = within("get namespace", api.get_metadata_opt(namespace)).await?;
    found.and_then(|found| found.metadata.uid).ok_or_else(|| {
        let remedy =
            format!("create it first (kubectl create namespace {namespace}), or name its --namespace-uid");
        Failure::new(format!("the hub has no namespace {namespace}; {remedy}"))
    })
}

async fn list_remote(remote: &Remote, namespace: &str) -> Outcome {
    let gateway = remote.connect().await?;
    let path = format!("/v1/namespaces/{}/datasets", label(namespace)?);
    let list: Datasets = gateway.get(&path).await?;
    let mut rows = vec![["NAMESPACE", "NAME", "TOKENS", "VOCABULARY", "DIGEST"].map(String::from)];
    for one in list.datasets {
        let name = sanitise::line(&one.name, 63);
        rows.push([
            namespace.to_owned(),
            name,
            one.tokens.to_string(),
            one.vocabulary.to_string(),
            one.manifest.to_string(),
        ]);
    }
    print(&table(&rows))?;
    Ok(0)
}

async fn list_store(path: &Location, namespace: Option<String>) -> Outcome {
    expect_store(path)?;
    let store = Store::open(path).await?;
    let wanted = |one: &Namespace| namespace.as_deref().is_none_or(|name| one.name() == name);
    let namespaces: Vec<_> = store.namespaces().await?.into_iter().filter(wanted).collect();
    let mut rows = vec![["NAMESPACE", "NAME", "TOKENS", "VOCABULARY", "DIGEST"].map(String::from)];
    for namespace in namespaces {
        for name in store.names(Asset::Dataset, &namespace).await? {
            let Some(digest) = store.named(Asset::Dataset, &namespace, &name).await? else { continue };
            let (tokens, vocabulary) = match store.dataset_manifest(&digest).await {
                Ok(Some(m)) => (m.tokens().to_string(), m.vocabulary().to_string()),
                _ => ("damaged".into(), "-".into()),
            };
            rows.push([namespace.to_string(), name, tokens, vocabulary, digest.to_string()]);
        }
    }
    print(&table(&rows))?;
    Ok(0)
}

/// A directory that is missing is a mistake, not an empty store.
pub(super) fn expect_store(store: &Location) -> Result<(), Failure> {
    match store {
        Location::Directory(path) if !path.is_dir() => {
            Err(Failure::new(format!("no store in {}; name the hub's --store", path.display())))
        }
        _ => Ok(()),
    }
}

/// `NAMESPACE/NAME`
pub(super) fn split(text: &str) -> Result<(&str, &str), Failure> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace, name))
        }
        _ => Err(Failure::usage(format!("{text:?} is not NAMESPACE/NAME, like team-a/kjv"))),
    }
}

/// Part of a path at the gateway.
pub(super) fn label(text: &str) -> Result<&str, Failure> {
    if is_dns_label(text) {
        return Ok(text);
    }
    let text = format!("{text:?} is not a DNS label: lower-case letters, digits and '-', at most 63");
    Err(Failure::usage(text))
}

fn describe(manifest: &Manifest) -> String {
    format!(
        "{} tokens in {} files, tokenizer {}, vocabulary {}, root {}",
        manifest.tokens(),
        manifest.shards().len(),
        manifest.tokenizer(),
        manifest.vocabulary(),
        manifest.root()
    )
}

/// Columns as wide as their widest cell.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Shows on a terminal that work goes on. How far it is, it does not know.
struct Busy(Option<ProgressBar>);

impl Busy {
    fn start(verb: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(verb);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    fn end(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_two_parts() {
        assert_eq!(split("team-a/kjv").ok(), Some(("team-a", "kjv")));
        for bad in ["kjv", "/kjv", "team-a/", "a/b/c", ""] {
            assert_eq!(split(bad).err().map(|f| f.code()), Some(2), "{bad}");
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(String::from));
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }
}
