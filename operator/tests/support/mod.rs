//! Runs the real `muster` and `muster-trainer` as a person would.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Asserts the exit code and that stderr has all the words; nothing may look like a crash of ours.
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked") && !self.stdout.contains("stateRoot"), "{self:?}");
        self
    }

    /// Asserts success.
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The digest of the line `stateRoot sha256:...`.
    pub fn state_root(&self) -> String {
        let line = self.stdout.lines().find_map(|l| l.strip_prefix("stateRoot "));
        line.unwrap_or_else(|| panic!("no stateRoot: {self:?}")).to_owned()
    }
}

/// `muster` with arguments, not started. It finds the trainer beside itself.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(muster());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `muster` to its end.
pub fn run(arguments: &[&str]) -> Ran {
    end(command(arguments).spawn().unwrap())
}

/// Waits for a started one.
pub fn end(child: std::process::Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub fn muster() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_muster"))
}

/// Cargo builds the binaries of the package under test only; the trainer is another package's. With `--workspace` the
/// features are those of the build that runs, so this is quick.
pub fn build_trainer() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let folder = muster().parent().unwrap();
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--locked", "--workspace", "--bin", "muster-trainer"]);
        command
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .env("CARGO_TARGET_DIR", folder.parent().unwrap());
        if folder.ends_with("release") {
            command.arg("--release");
        }
        assert!(command.status().unwrap().success(), "cannot build muster-trainer");
        assert!(folder.join("muster-trainer").is_file());
    });
}

/// A tiny job and its data in a directory of their own.
pub struct Site {
    pub dir: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        build_trainer();
        let site = Self { dir: tempfile::tempdir().unwrap() };
        let text: String = (0..400).map(|i| format!("{i}: In the beginning was the word.\n")).collect();
        std::fs::write(site.path("text"), text).unwrap();
        run(&["data", "prepare", &site.at("text"), "--out", &site.at("data")]).succeeded();
        site.job("job.yaml", "");
        site
    }

    /// Writes the job with other or more fields of spec.training.
    pub fn job(&self, file: &str, training: &str) {
        self.write(
            file,
            &format!(
                "apiVersion: muster.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: tiny, namespace: team-a}}\nspec:\n  \
                 model: {{architecture: gpt2, layers: 1, width: 32, heads: 2, context: 32, vocabulary: 256}}\n  \
                 data: {{dataset: tiny}}\n  workers: {{count: 2}}\n  checkpoints: {{keepLast: 100}}\n  \
                 training: {{steps: 24, batch: 4, shards: 4, intervalSteps: 4{training}}}\n"
            ),
        );
    }

    /// A job, `eval.yaml`, that is evaluated after steps 10, 20 and 24 on other data, in `held-out`; gives the argument that says so.
    pub fn evaluated(&self) -> String {
        self.write("other", &"And the light shineth in darkness.\n".repeat(20));
        run(&["data", "prepare", &self.at("other"), "--out", &self.at("held-out")]).succeeded();
        self.job("eval.yaml", ", eval: {everySteps: 10, dataset: psalms}");
        format!("psalms={}", self.at("held-out"))
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path(file), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As text, for arguments.
    pub fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The arguments of `muster local` with this job file and output.
    pub fn local(&self, job: &str, out: &str, more: &[&str]) -> Vec<String> {
        let data = format!("tiny={}", self.at("data"));
        let mut all: Vec<String> =
            ["local", &self.at(job), "--data", &data, "--out", &self.at(out)].map(String::from).into();
        all.extend(more.iter().map(ToString::to_string));
        all
    }

    pub fn train(&self, job: &str, out: &str, more: &[&str]) -> Ran {
        let all = self.local(job, out, more);
        run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }
}
