//! The pod's process 1 against a relay with faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod relay;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{BINARY, Job, STEPS, run_one};
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_trainer::protocol::Desired;
use relay::Relay;

/// A job whose relay and pods are at hand.
struct Site {
    job: Job,
    relay: Relay,
}

struct Pod {
    child: Child,
    dir: PathBuf,
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    last_words: String,
}

impl Site {
    /// A job of `steps` steps with `workers` pods.
    fn new(steps: u64, workers: u32) -> Self {
        let mut training = common::training();
        training.steps = steps;
        Self::of(Job::with(&common::model(), &training), workers)
    }

    fn of(job: Job, workers: u32) -> Self {
        let read = |name: &str| fs::read(job.data.join(name)).unwrap();
        let spec = fs::read(&job.spec).unwrap();
        let relay = Relay::start(workers, spec, read("manifest.json"), vec![read("tokens-00000.bin")]);
        Self { job, relay }
    }

    fn pod(&self, rank: u32) -> Pod {
        let dir = self.job.dir.path().join(format!("pod-{rank}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("token"), format!("rank-{rank}\n")).unwrap();
        let child = Command::new(BINARY)
            .arg("pod")
            .env("MUSTER_RELAY", &self.relay.url)
            .env("MUSTER_RELAY_CA", &self.relay.ca)
            .env("MUSTER_POD_IP", "127.0.0.1")
            .env("MUSTER_THREADS", "1")
            .env("MUSTER_TOKEN_FILE", dir.join("token"))
            .env("MUSTER_WORK", dir.join("work"))
            .env("MUSTER_TERMINATION_LOG", dir.join("last-words"))
            .env("MUSTER_PATIENCE_SECONDS", "3")
            .env("HTTPS_PROXY", "http://127.0.0.1:9") // must not be listened to
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.join("stdout")).unwrap())
            .stderr(fs::File::create(dir.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        Pod { child, dir }
    }

    fn pods(&self) -> Vec<Pod> {
        let workers = self.relay.state().workers;
        (0..workers).map(|rank| self.pod(rank)).collect()
    }

    /// The StateRoot of the same job without pods.
    fn want(&self) -> Digest {
        run_one(&self.job, &self.job.out("want"), &[]).root()
    }
}

impl Pod {
    fn end(mut self) -> Ended {
        let end = Instant::now() + Duration::from_secs(90);
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < end, "the pod does not end: {}", self.read("stderr"));
            thread::sleep(Duration::from_millis(10));
        };
        Ended {
            code,
            stdout: self.read("stdout"),
            stderr: self.read("stderr"),
            last_words: self.read("last-words"),
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// The newest step that the pod has printed.
    fn step(&self) -> u64 {
        let stdout = self.read("stdout");
        let mut steps =
            stdout.lines().filter_map(|line| line.strip_prefix("step ")?.split(' ').next()?.parse().ok());
        steps.next_back().unwrap_or(0)
    }

    fn wait_for_step(&self, step: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.step() < step {
            assert!(Instant::now() < end, "step {step} does not come: {}", self.read("stderr"));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the worker process, as a crash would.
    fn kill_worker(&self) {
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

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success()
        );
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    fn assert(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.last_words.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// Two pods train to the end; the last checkpoint is durable before they end, and the bits are those of one process.
#[test]
fn pods_train_and_their_checkpoints_are_durable() {
    let site = Site::new(STEPS, 2);
    site.relay.state().not_yet = 3;
    let ended: Vec<_> = site.pods().into_iter().map(Pod::end).collect();
    let root = site.want();
    ended[0].assert(0, &["finished after step 10", &root.to_string()]);
    ended[1].assert(0, &["finished after step 10"]);
    let state = site.relay.state();
    let last = state.checkpoints.last().unwrap();
    assert_eq!((last.step, last.state_root), (STEPS, root));
    assert_eq!(state.not_yet, 0, "202 was asked again");
    assert!(state.progress.last().is_some_and(|progress| progress.step > 0));
    assert!(ended[0].stdout.contains("loss"));
}

/// The relay is away while the workers train: steps go on, and everything becomes durable afterwards.
#[test]
fn training_goes_on_without_the_relay() {
    let site = Site::new(600, 2);
    let want = site.want();
    let pods = site.pods();
    pods[0].wait_for_step(40);
    site.relay.state().down = true;
    let from = pods[0].step();
    pods[0].wait_for_step(from + 100);
    thread::sleep(Duration::from_secs(2));
    assert!(site.relay.state().checkpoints.last().is_none_or(|last| last.step < from + 100));
    site.relay.state().down = false;
    for pod in pods {
        pod.end().assert(0, &["finished after step 600"]);
    }
    let state = site.relay.state();
    assert_eq!(state.checkpoints.last().map(|last| last.state_root), Some(want));
    assert_eq!(state.round, 1, "nobody asked for another round");
}

/// The hub is away, the agent is not: newer checkpoints do not wait for older ones to be durable, and the pod's end
/// waits for the last.
#[test]
fn checkpoints_do_not_queue_behind_one_that_is_not_durable() {
    let site = Site::new(40, 1);
    site.relay.state().not_yet = u32::MAX;
    let mut pod = site.pod(0);
    site.relay.wait("the last checkpoint", |state| state.announced.contains(&40));
    thread::sleep(Duration::from_millis(500));
    assert!(pod.child.try_wait().unwrap().is_none(), "not durable, not done");
    site.relay.state().not_yet = 0;
    pod.end().assert(0, &["finished after step 40"]);
    assert_eq!(site.relay.state().checkpoints.last().map(|last| last.step), Some(40));
}

/// Whoever stands between pod and relay, or is the relay without its key, makes no peer. The pod asks again until its
/// patience ends.
#[test]
fn a_list_of_peers_that_is_not_the_relays_is_refused() {
    type Change = fn(&mut relay::State);
    let changes: [(&str, Change); 4] = [
        ("no signature by a trusted key", |state| state.signer = SigningKey::generate([9; 32]).unwrap()),
        ("unit is not 4f2a9c1b-0-1", |state| state.tamper = |list, _| list.unit = "4f2a9c1b-0-2".into()),
        ("round is not 1", |state| state.tamper = |list, _| list.round = 2),
        ("another key for this worker", |state| {
            state.tamper = |list, rank| list.peers[rank as usize].key = Digest::of(b"another");
        }),
    ];
    for (what, change) in changes {
        let site = Site::new(STEPS, 2);
        change(&mut site.relay.state());
        for pod in site.pods() {
            let ended = pod.end();
            ended.assert(69, &["a list of peers that cannot be believed", what]);
            assert!(!ended.stdout.contains("step"), "no step with a stranger: {ended:?}");
        }
    }
    // An answer that is wrong once does no harm.
    let site = Site::new(STEPS, 2);
    site.relay.state().tamper = |list, _| list.attempt = 7;
    let pods = site.pods();
    site.relay.wait("all to join", |state| state.joined.len() == 2);
    thread::sleep(Duration::from_millis(700));
    site.relay.state().tamper = |_, _| ();
    for pod in pods {
        pod.end().assert(0, &["finished after step 10"]);
    }
}

/// A worker process dies: its pod asks for the next round, the other follows, the bits stay.
#[test]
fn a_crash_of_a_worker_is_the_next_round() {
    for victim in [0, 1] {
        let site = Site::new(300, 2);
        let want = site.want();
        let pods = site.pods();
        pods[0].wait_for_step(20);
        site.relay.wait("a checkpoint", |state| !state.checkpoints.is_empty());
        pods[victim].kill_worker();
        let ended: Vec<_> = pods.into_iter().map(Pod::end).collect();
        for pod in &ended {
            pod.assert(0, &["finished after step 300"]);
            assert!(pod.stderr.contains("round 2"), "{pod:?}");
        }
        assert!(ended[victim].stderr.contains("the worker ended with 137"), "{ended:?}");
        let state = site.relay.state();
        assert_eq!(state.checkpoints.last().map(|last| last.state_root), Some(want));
        assert!(state.start.as_ref().is_some_and(|start| start.step >= 4), "it went on from a checkpoint");
    }
}

/// A pod that is new (another machine, an empty disk) starts from the relay's checkpoint.
#[test]
fn a_new_pod_fetches_the_start_checkpoint() {
    let site = Site::new(300, 2);
    let want = site.want();
    let mut pods = site.pods();
    pods[0].wait_for_step(20);
    site.relay.wait("a checkpoint", |state| !state.checkpoints.is_empty());
    drop(pods.remove(0));
    // Its worker sees the end of its stdin and stops by itself; until then it may still be writing.
    let end = Instant::now() + Duration::from_secs(30);
    while fs::remove_dir_all(site.job.dir.path().join("pod-0/work")).is_err() {
        assert!(Instant::now() < end);
    }
    pods.insert(0, site.pod(0));
    for pod in pods {
        pod.end().assert(0, &["finished after step 300"]);
    }
    assert_eq!(site.relay.state().checkpoints.last().map(|last| last.state_root), Some(want));
}

#[test]
fn the_relay_says_which_round_it_is() {
    let site = Site::new(STEPS, 1);
    site.relay.state().round = 5;
    site.pod(0).end().assert(0, &["finished"]);
    let log = site.relay.state().log.join("\n");
    assert!(log.starts_with("GET /v1/rounds/1\nGET /v1/rounds/5\n"), "{log}");
}

#[test]
fn an_attempt_that_is_over_ends() {
    let site = Site::new(STEPS, 1);
    site.relay.state().over = true;
    site.pod(0).end().assert(143, &["this attempt is over"]);

    let site = Site::new(100_000, 2);
    let pods = site.pods();
    pods[0].wait_for_step(8);
    site.relay.state().over = true;
    for pod in pods {
        pod.end().assert(143, &["this attempt is over"]);
    }
}

#[test]
fn wrong_bytes_are_asked_for_again_and_then_refused() {
    let spec = |site: &Site| site.relay.state().spec;
    let tokens = |site: &Site| Digest::of(&fs::read(site.job.data.join("tokens-00000.bin")).unwrap());
    for which in [spec as fn(&Site) -> Digest, tokens] {
        let site = Site::new(STEPS, 1);
        let digest = which(&site);
        site.relay.state().wrong.insert(digest, 1);
        site.pod(0).end().assert(0, &["finished"]);
        assert_eq!(site.relay.state().wrong[&digest], 0);
    }
    for (which, code) in [(spec as fn(&Site) -> Digest, 64), (tokens, 66)] {
        let site = Site::new(STEPS, 1);
        let digest = which(&site);
        site.relay.state().wrong.insert(digest, 99);
        site.pod(0).end().assert(code, &["the relay gave bytes of digest", &digest.to_string()]);
    }
}

#[test]
fn a_drain_of_the_hub_stops_at_a_boundary() {
    let site = Site::new(100_000, 2);
    let pods = site.pods();
    pods[0].wait_for_step(8);
    site.relay.state().desired = Desired::Drain;
    for pod in pods {
        pod.end().assert(0, &["drained after step"]);
    }
    let state = site.relay.state();
    assert!(state.checkpoints.last().unwrap().step.is_multiple_of(4));
}

/// The hub's Stop and the kubelet's SIGTERM: at the step boundary, well within the grace period.
#[test]
fn stopping_is_quick() {
    for way in ["hub", "kubelet"] {
        let site = Site::new(100_000, 2);
        let pods = site.pods();
        pods[0].wait_for_step(8);
        let began = Instant::now();
        match way {
            "hub" => site.relay.state().desired = Desired::Stop,
            _ => pods.iter().for_each(|pod| pod.signal("-TERM")),
        }
        let mut pods = pods.into_iter();
        pods.next().unwrap().end().assert(143, &["stopped on request after step"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{way}: {:?}", began.elapsed());
        if way == "hub" {
            // The others are taken along, ask for the next round and are told; the agent deletes them anyway.
            site.relay.state().over = true;
        }
        pods.next().unwrap().end().assert(143, &[]);
    }
}

#[test]
fn defined_ends_end_the_pod() {
    let mut training = common::training();
    training.optimizer.learning_rate = "1000".into();
    training.optimizer.clip_norm = "0".into();
    (training.steps, training.schedule.warmup_steps) = (60, 0);
    let site = Site::of(Job::with(&common::model(), &training), 2);
    for pod in site.pods() {
        pod.end().assert(65, &["is not finite"]);
    }
}

/// A worker that dies again and again without a step ends the pod with its code. Here it waits for a peer that never
/// comes, so that no step can come in between.
#[test]
fn crash_loops_end() {
    let site = Site::new(STEPS, 2);
    let pod = site.pod(0);
    for round in 1..=3 {
        site.relay.wait("a join", |state| state.round == round && state.joined.contains_key(&0));
        pod.kill_worker();
    }
    pod.end().assert(137, &["the worker ended with 137", "3 times in a row without a new step"]);
}

#[test]
fn a_relay_that_cannot_be_reached_or_trusted_is_given_up() {
    let site = Site::new(STEPS, 1);
    site.relay.state().down = true;
    site.pod(0).end().assert(69, &["relay:", "gave up after 3 s"]);

    let (mut site, other) = (Site::new(STEPS, 1), Site::new(STEPS, 1));
    site.relay.url.clone_from(&other.relay.url);
    site.pod(0).end().assert(69, &["certificate", "gave up"]);
    assert_eq!(other.relay.state().log.len(), 0, "no request without trust");
}
