//! Programs of the checkout, run as a person would run them.
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// What a program printed, both streams in the order they ended.
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Both streams, the last `lines` of each: enough for a message.
    pub fn tail(&self, lines: usize) -> String {
        let last = |text: &str| {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        };
        format!("{}\n{}", last(&self.stdout), last(&self.stderr))
    }
}

/// Runs a program to its end. The child dies with us: a scenario that runs out of time leaves nothing.
pub async fn capture(
    directory: &Path,
    program: &Path,
    arguments: &[&str],
    env: &[(&str, &str)],
) -> Result<Output> {
    let output = Command::new(program)
        .args(arguments)
        .envs(env.iter().copied())
        .current_dir(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("starting {}", program.display()))?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// As `capture`, and an exit code other than 0 is an error that shows the end of what was printed.
pub async fn succeed(
    directory: &Path,
    program: &Path,
    arguments: &[&str],
    env: &[(&str, &str)],
) -> Result<Output> {
    let output = capture(directory, program, arguments, env).await?;
    if output.code != 0 {
        bail!("{} {} exited {}:\n{}", program.display(), arguments.join(" "), output.code, output.tail(20));
    }
    Ok(output)
}
