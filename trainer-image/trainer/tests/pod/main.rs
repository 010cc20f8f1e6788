//! A pod's two containers, trainer and sidecar, against a relay with faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod relay;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use common::{BINARY, Job, STEPS, run_one};
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_trainer::checkpoint::{self, Store};
use muster_trainer::protocol::Desired;
use muster_trainer::work::Work;
use relay::Relay;

/// A job whose relay and pods are at hand.
struct Site {
    job: Job,
    relay: Relay,
}

struct Pod {
    child: Child,
    sidecar: Option<Child>,
    relay: (String, String),
    dir: PathBuf,
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    sidecar: String,
    last_words: String,
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
    fn new(steps: u64, workers: u32) -> Self {
        let mut training = common::training();
        training.steps = steps;
        Self::of(Job::with(&common::model(), &training), workers)
    }

    fn of(job: Job, workers: u32) -> Self {
        sidecar();
        let read = |name: &str| fs::read(job.data.join(name)).unwrap();
        let spec = fs::read(&job.spec).unwrap();
        let relay = Relay::start(workers, spec, read("manifest.json"), vec![read("tokens-00000.bin")]);
        Self { job, relay }
    }

    /// A pod as the kubelet starts it: the sidecar first.
    fn pod(&self, rank: u32) -> Pod {
        let mut pod = self.pod_without_sidecar(rank);
        pod.start_sidecar();
        pod
    }

    fn pod_without_sidecar(&self, rank: u32) -> Pod {
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

    fn pods(&self) -> Vec<Pod> {
        let workers = self.relay.state().workers;
        (0..workers).map(|rank| self.pod(rank)).collect()
    }

    /// The StateRoot of the same job without pods.
    fn want(&self) -> Digest {
        run_one(&self.job, &self.job.out("want"), &[]).root()
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

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

impl Pod {
    /// The pod's end as the kubelet brings it about: when the trainer has ended, the sidecar is told to.
    fn end(mut self) -> Ended {
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

    fn start_sidecar(&mut self) {
        let mut command = Command::new(sidecar());
        command.env("MUSTER_KEYS", self.dir.join("keys"));
        self.sidecar = Some(spawn(command, &self.relay, &self.dir, "sidecar", "sidecar"));
    }

    /// The sidecar dies, and nobody starts it again.
    fn kill_sidecar(&mut self) {
        let mut sidecar = self.sidecar.take().unwrap();
        sidecar.kill().unwrap();
        sidecar.wait().unwrap();
    }

    fn work(&self) -> Work {
        Work::new(&self.dir.join("work"))
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
    assert!(ended[0].stdout.contains(&format!("checkpoint of step 10 stateRoot {root}")));
    assert_eq!(state.keys.keys().collect::<Vec<_>>(), [&0], "who announces nothing binds nothing");
    // The last two are kept, and nothing lies between worker and sidecar any more.
    let work = Work::new(&site.job.dir.path().join("pod-0/work"));
    assert_eq!(Store::new(&work.job()).steps().unwrap(), [8, 10]);
    assert!(checkpoint::open(&Store::new(&work.job()).path(10)).is_ok());
    assert!(handed_over(&work).is_empty());
}

/// What lies between worker and sidecar, but for the socket.
fn handed_over(work: &Work) -> Vec<String> {
    let names = fs::read_dir(work.handovers()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".sock")).collect()
}

/// The sidecar dies again and again and the kubelet starts it again: no step is lost, nobody asks for another round, and
/// the key stays the one that was bound.
#[test]
fn a_sidecar_that_is_started_again_goes_on() {
    let site = Site::new(400, 2);
    let want = site.want();
    let mut pods = site.pods();
    for step in [20, 80, 140] {
        pods[0].wait_for_step(step);
        site.relay.wait("a checkpoint", |state| !state.checkpoints.is_empty());
        pods[0].kill_sidecar();
        let from = pods[0].step();
        pods[0].wait_for_step(from + 10);
        pods[0].start_sidecar();
    }
    let ended: Vec<_> = pods.into_iter().map(Pod::end).collect();
    ended[0].assert(0, &["finished after step 400", &want.to_string()]);
    ended[1].assert(0, &["finished after step 400"]);
    let state = site.relay.state();
    assert_eq!(state.checkpoints.last().map(|last| (last.step, last.state_root)), Some((400, want)));
    assert_eq!((state.round, state.keys.len()), (1, 1));
}

/// Nothing that the sidecar has seen half of is lost: it dies at the end, with all the work still to do.
#[test]
fn a_sidecar_that_comes_late_finds_everything() {
    let site = Site::new(STEPS, 1);
    let mut pod = site.pod_without_sidecar(0);
    pod.wait_for_step(STEPS);
    thread::sleep(Duration::from_millis(500));
    assert!(pod.child.try_wait().unwrap().is_none(), "nothing is durable yet");
    pod.start_sidecar();
    pod.end().assert(0, &["finished after step 10", &site.want().to_string()]);
    assert_eq!(site.relay.state().checkpoints.last().map(|last| last.step), Some(STEPS));
}

#[test]
fn a_sidecar_that_stays_away_ends_the_pod() {
    let site = Site::new(STEPS, 1);
    let ended = site.pod_without_sidecar(0).end();
    ended.assert(69, &["finished after step 10, but", "the sidecar cannot be reached for 3 s"]);
}

/// While the sidecar is away only a few states wait on the disk, the newest among them.
#[test]
fn states_do_not_pile_up_without_a_sidecar() {
    let site = Site::new(200, 1);
    let pod = site.pod_without_sidecar(0);
    pod.wait_for_step(200);
    thread::sleep(Duration::from_millis(500));
    let waiting = handed_over(&pod.work());
    assert!(waiting.len() <= 4 && waiting.contains(&"1-200".to_owned()), "{waiting:?}");
    pod.end().assert(69, &[]);
}

/// Another key was bound to this rank: what this sidecar signs counts for nothing, and the pod says so.
#[test]
fn another_key_is_not_replaced() {
    let site = Site::new(STEPS, 1);
    let stranger = SigningKey::generate([9; 32]).unwrap();
    site.relay.state().keys.insert(0, stranger.public().clone());
    let ended = site.pod(0).end();
    ended.assert(69, &["is not durable at the hub", "another key is bound"]);
    assert!(site.relay.state().announced.is_empty());
}

/// An agent that lost its memory knows no key: the sidecar binds its own again.
#[test]
fn a_forgotten_key_is_bound_again() {
    let site = Site::new(300, 1);
    let pod = site.pod(0);
    site.relay.wait("a checkpoint", |state| !state.checkpoints.is_empty());
    let first = site.relay.state().keys.remove(&0);
    pod.end().assert(0, &["finished after step 300"]);
    assert_eq!(site.relay.state().keys.get(&0), first.as_ref());
}

#[test]
fn uploads_that_are_damaged_on_the_way_are_sent_again() {
    for (flipped, cut, why) in [(2, 0, "was damaged on the way"), (0, 2, "relay:")] {
        let site = Site::new(STEPS, 1);
        {
            let mut state = site.relay.state();
            (state.flipped, state.cut) = (flipped, cut);
        }
        let ended = site.pod(0).end();
        ended.assert(0, &["finished after step 10"]);
        assert!(ended.sidecar.contains(why), "{ended:?}");
        let state = site.relay.state();
        assert_eq!((state.flipped, state.cut), (0, 0));
    }
}

/// A line that is none ends its connection and nothing else.
#[test]
fn the_sidecars_socket_survives_rubbish() {
    use std::io::{Read as _, Write as _};
    let site = Site::new(300, 1);
    let pod = site.pod(0);
    pod.wait_for_step(20);
    for rubbish in [&b"\n"[..], b"{\"written\":{\"round\":1,\"step\":4}}\n", &[b' '; 100_000]] {
        let mut stream = std::os::unix::net::UnixStream::connect(pod.work().socket()).unwrap();
        // It may hang up before it has read all of it.
        drop(stream.write_all(rubbish));
        let mut rest = Vec::new();
        // Until it is hung up on; answers to others may come before.
        drop(stream.read_to_end(&mut rest));
    }
    // A state that nobody wrote is refused; the supervisor did not ask.
    let mut stream = std::os::unix::net::UnixStream::connect(pod.work().socket()).unwrap();
    stream.write_all(b"{\"written\":{\"round\":9,\"step\":999999,\"keepLast\":1}}\n").unwrap();
    pod.end().assert(0, &["finished after step 300"]);
    assert_eq!(site.relay.state().checkpoints.last().map(|last| last.step), Some(300));
}

/// The same step with other bits, as from a machine that computes wrongly: the pod ends with 67 and both are kept.
#[test]
fn other_bits_for_a_step_end_the_pod() {
    let site = Site::new(STEPS, 1);
    let mut training = common::training();
    training.seed += 1;
    let other = Job::with(&common::model(), &training);
    run_one(&other, &other.out("out"), &[]);
    let pod = site.job.dir.path().join("pod-0/work/job/checkpoints/step-00000004");
    fs::create_dir_all(pod.parent().unwrap()).unwrap();
    fs::create_dir(&pod).unwrap();
    for entry in fs::read_dir(Store::new(&other.out("out")).path(4)).unwrap_or_else(|_| panic!("kept")) {
        let entry = entry.unwrap();
        fs::copy(entry.path(), pod.join(entry.file_name())).unwrap();
    }
    let ended = site.pod(0).end();
    ended.assert(67, &["of the same step", "computed wrongly", "keep both"]);
    let work = Work::new(&site.job.dir.path().join("pod-0/work"));
    assert!(handed_over(&work).contains(&"1-4".to_owned()), "{ended:?}");
    assert!(pod.join("manifest.json").is_file());
}

/// The kubelet's SIGTERM with a relay that is away: what was handed over is waited for as long as the grace allows, and
/// nothing half is left.
#[test]
fn a_stop_lets_what_was_handed_over_become_durable() {
    let site = Site::new(100_000, 1);
    let pod = site.pod(0);
    pod.wait_for_step(8);
    site.relay.state().down = true;
    let from = pod.step();
    pod.wait_for_step(from + 10);
    signal(&pod.child, "-TERM");
    thread::sleep(Duration::from_millis(1500));
    site.relay.state().down = false;
    let work = pod.work();
    let ended = pod.end();
    ended.assert(143, &["stopped on request after step"]);
    let newest = *Store::new(&work.job()).steps().unwrap().last().unwrap();
    assert!(newest > from);
    assert_eq!(site.relay.state().checkpoints.last().map(|last| last.step), Some(newest), "{ended:?}");
    assert!(handed_over(&work).is_empty());
    for step in Store::new(&work.job()).steps().unwrap() {
        checkpoint::open(&Store::new(&work.job()).path(step)).unwrap();
    }
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

/// A checkpoint that was on its way when the attempt ended is nobody's any more: waiting for it would hold up the next attempt.
#[test]
fn nothing_is_waited_for_once_the_attempt_is_over() {
    let site = Site::new(100_000, 1);
    let pod = site.pod(0);
    pod.wait_for_step(8);
    site.relay.state().down = true;
    let from = pod.step();
    pod.wait_for_step(from + 10);
    {
        let mut state = site.relay.state();
        (state.down, state.over) = (false, true);
    }
    signal(&pod.child, "-TERM");
    let began = Instant::now();
    pod.end().assert(143, &[]);
    // The trainer and the sidecar together would have 28 s; the longest pause between two tries is 5 s.
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
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
            _ => pods.iter().for_each(|pod| signal(&pod.child, "-TERM")),
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
