//! A job, its relay, and its pods as processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use muster_proof::Digest;
use muster_trainer::work::Work;

use crate::common::{self, BINARY, Job, run_one};
use crate::relay::Relay;

/// A job whose relay and pods are at hand.
pub struct Site {
    pub job: Job,
    pub relay: Relay,
}

pub struct Pod {
    pub child: Child,
    sidecar: Option<Child>,
    relay: (String, String),
    pub dir: PathBuf,
}

#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub sidecar: String,
    pub last_words: String,
}

/// Cargo builds the binaries of the package under test only; the sidecar is another package's. With `--workspace` the
/// features are those of the build that runs, so this is quick.
fn sidecar() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(BINARY).parent().unwrap();
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--quiet", "--locked", "--workspace", "--bin", "muster-sidecar"]);
        command
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .env("CARGO_TARGET_DIR", folder.parent().unwrap());
        if folder.ends_with("release") {
            command.arg("--release");
        }
        assert!(command.status().unwrap().success(), "cannot build muster-sidecar");
        folder.join("muster-sidecar")
    })
}

impl Site {
    /// A job of `steps` steps with `workers` pods.
    pub fn new(steps: u64, workers: u32) -> Self {
        let mut training = common::training();
        training.steps = steps;
        Self::of(Job::with(&common::model(), &training), workers)
    }

    pub fn of(job: Job, workers: u32) -> Self {
        sidecar();
        let read = |name: &str| fs::read(job.data.join(name)).unwrap();
        let spec = fs::read(&job.spec).unwrap();
        let relay = Relay::start(workers, spec, read("manifest.json"), vec![read("tokens-00000.bin")]);
        for file in
            job.held_out.iter().flat_map(|dir| [dir.join("manifest.json"), dir.join("tokens-00000.bin")])
        {
            let bytes = fs::read(file).unwrap();
            relay.state().blobs.insert(Digest::of(&bytes), bytes);
        }
        if let Some((dir, manifest)) = &job.weights {
            let files = manifest.files().iter().map(|file| fs::read(dir.join(&file.path)).unwrap());
            for bytes in files.chain([manifest.to_bytes().unwrap()]) {
                relay.state().blobs.insert(Digest::of(&bytes), bytes);
            }
        }
        Self { job, relay }
    }

    /// A pod as the kubelet starts it: the sidecar first.
    pub fn pod(&self, rank: u32) -> Pod {
        let mut pod = self.pod_without_sidecar(rank);
        pod.start_sidecar();
        pod
    }

    pub fn pod_without_sidecar(&self, rank: u32) -> Pod {
        let dir = self.job.dir.path().join(format!("pod-{rank}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("token"), format!("rank-{rank}\n")).unwrap();
        let relay = (self.relay.url.clone(), self.relay.ca.clone());
        let mut command = Command::new(BINARY);
        command
            .arg("pod")
            .env("MUSTER_POD_IP", "127.0.0.1")
            .env("MUSTER_THREADS", "1")
            .env("MUSTER_TERMINATION_LOG", dir.join("last-words"))
            .env("MUSTER_PATIENCE_SECONDS", "3");
        let child = spawn(command, &relay, &dir, "stdout", "stderr");
        Pod { child, sidecar: None, relay, dir }
    }

    pub fn pods(&self) -> Vec<Pod> {
        let workers = self.relay.state().workers;
        (0..workers).map(|rank| self.pod(rank)).collect()
    }

    /// The StateRoot of the same job without pods. Its records lie in the directory `want`.
    pub fn want(&self) -> Digest {
        let steps = self.relay.state().interval_steps.to_string();
        run_one(&self.job, &self.job.out("want"), &["--interval-steps", &steps]).root()
    }

    /// Waits until the relay has a checkpoint.
    pub fn wait_for_checkpoint(&self) {
        self.relay.wait("a checkpoint", |state| !state.checkpoints.is_empty());
    }
}

/// A container's process with what the agent's template gives to both containers.
fn spawn(mut command: Command, relay: &(String, String), dir: &Path, stdout: &str, stderr: &str) -> Child {
    let file = |name: &str| fs::File::options().create(true).append(true).open(dir.join(name)).unwrap();
    command
        .env("MUSTER_RELAY", &relay.0)
        .env("MUSTER_RELAY_CA", &relay.1)
        .env("MUSTER_TOKEN_FILE", dir.join("token"))
        .env("MUSTER_WORK", dir.join("work"))
        .env("HTTPS_PROXY", "http://127.0.0.1:9") // must not be listened to
        .stdin(Stdio::null())
        .stdout(file(stdout))
        .stderr(file(stderr))
        .spawn()
        .unwrap()
}

fn wait(child: &mut Child, limit: u64, why: impl Fn() -> String) -> Option<i32> {
    let end = Instant::now() + Duration::from_secs(limit);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < end, "no end: {}", why());
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

impl Pod {
    /// The pod's end as the kubelet brings it about: when the trainer has ended, the sidecar is told to.
    pub fn end(mut self) -> Ended {
        let stderr = self.dir.join("stderr");
        let code = wait(&mut self.child, 90, || fs::read_to_string(&stderr).unwrap());
        if let Some(mut sidecar) = self.sidecar.take() {
            signal(&sidecar, "-TERM");
            assert_eq!(wait(&mut sidecar, 10, || self.read("sidecar")), Some(0), "{}", self.read("sidecar"));
        }
        Ended {
            code,
            stdout: self.read("stdout"),
            stderr: self.read("stderr"),
            sidecar: self.read("sidecar"),
            last_words: self.read("last-words"),
        }
    }

    pub fn start_sidecar(&mut self) {
        let mut command = Command::new(sidecar());
        command.env("MUSTER_KEYS", self.dir.join("keys"));
        self.sidecar = Some(spawn(command, &self.relay, &self.dir, "sidecar", "sidecar"));
    }

    /// The sidecar dies, and nobody starts it again.
    pub fn kill_sidecar(&mut self) {
        let mut sidecar = self.sidecar.take().unwrap();
        sidecar.kill().unwrap();
        sidecar.wait().unwrap();
    }

    pub fn work(&self) -> Work {
        Work::new(&self.dir.join("work"))
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// The newest step that the pod has printed.
    pub fn step(&self) -> u64 {
        let stdout = self.read("stdout");
        let mut steps =
            stdout.lines().filter_map(|line| line.strip_prefix("step ")?.split(' ').next()?.parse().ok());
        steps.next_back().unwrap_or(0)
    }

    pub fn wait_for_step(&self, step: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.step() < step {
            assert!(Instant::now() < end, "step {step} does not come: {}", self.read("stderr"));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the worker process, as a crash would.
    pub fn kill_worker(&self) {
        let parent = self.child.id().to_string();
        let worker = fs::read_dir("/proc").unwrap().find_map(|entry| {
            let entry = entry.unwrap();
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // pid (name) state ppid ...
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, ppid) = (fields.next()?, fields.next()?);
            (state != "Z" && ppid == parent).then(|| entry.file_name().into_string().unwrap())
        });
        let worker = worker.expect("the pod has a worker");
        assert!(Command::new("kill").args(["-KILL", &worker]).status().unwrap().success());
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for child in self.sidecar.iter_mut().chain([&mut self.child]) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Ended {
    pub fn assert(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.last_words.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// What lies between worker and sidecar, but for the socket.
pub fn handed_over(work: &Work) -> Vec<String> {
    let names = fs::read_dir(work.handovers()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".sock")).collect()
}
