//! A job's proof: taken home by its tenant, read elsewhere.
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::{self, Output};
use crate::world::{TENANT, World};

/// `muster proof bundle`, as the tenant, into a directory that is made anew.
pub async fn take(world: &World, job: &str, more: &[&str]) -> Result<PathBuf> {
    let out = world.scratch.join(format!("{job}-proof"));
    let _ = std::fs::remove_dir_all(&out);
    let (name, kubeconfig) = (format!("{TENANT}/{job}"), world.tenant_kubeconfig());
    let (dir, kubeconfig) = (out.to_string_lossy(), kubeconfig.to_string_lossy());
    let make = ["proof", "bundle", &*name, "--out", &*dir, "--kubeconfig", &*kubeconfig];
    world.muster_succeeds(&[&make[..], more].concat()).await?;
    Ok(out)
}

/// Runs `muster` with nothing of the clusters and no environment, as on another machine; the caller judges the exit code.
pub async fn elsewhere(world: &World, arguments: &[&str]) -> Result<Output> {
    let program = world.muster.to_string_lossy();
    let arguments = [&["-i", &*program], arguments].concat();
    process::capture(&world.scratch, Path::new("/usr/bin/env"), &arguments, &[]).await
}
