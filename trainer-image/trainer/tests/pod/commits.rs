//! Every interval is committed, once, in order, and with its own records, whatever comes between.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use muster_numerics::spec::TrainingSpec;
use muster_proof::Digest;
use muster_proof::records::{Commit, Payload as _};
use muster_proof::steps::Records;
use muster_trainer::protocol::CheckpointNotice;
use muster_trainer::records::{self, RECORDS_FILE};

use crate::common::{Job, STEPS, model, training};
use crate::site::Site;

/// The last steps of a job's intervals.
fn ends(steps: u64, interval: u64) -> Vec<u64> {
    let mut ends: Vec<u64> =
        (1..=steps).filter(|step| step.is_multiple_of(interval) || *step == steps).collect();
    ends.dedup();
    ends
}

/// That the relay has one durable commit of each interval, with the records that the job alone has computed, and each
/// sealed and in its place.
fn assert_all(site: &Site) {
    let want = site.job.out("want");
    let root = site.want();
    let state = site.relay.state();
    assert_eq!(state.refused, [""; 0]);
    let steps: Vec<u64> = state.checkpoints.iter().map(|notice| notice.step).collect();
    assert_eq!(steps, ends(state.steps, state.interval_steps));
    let mut previous = Digest::of(b"start");
    let mut first = 1;
    for commit in &state.commits {
        let notice = &commit.notice;
        let said = Commit::from_payload(notice.commit.unverified_payload()).unwrap();
        assert!(commit.durable && said.previous == previous, "{}", notice.step);
        assert_eq!((said.first_step.get(), said.last_step.get()), (first, notice.step));
        assert_eq!((said.state_root, said.manifest), (notice.state_root, notice.manifest));
        let alone = records::read(&records::path(&want, notice.step), notice.step).unwrap();
        assert_eq!(notice.records, alone.as_slice());
        (previous, first) = (commit.id, notice.step + 1);
    }
    assert_eq!(state.checkpoints.last().map(|last| last.state_root), Some(root));
    // The first time that each was announced: oldest first.
    let mut announced: Vec<u64> = state.announced.iter().map(|(step, _)| *step).collect();
    announced.dedup();
    let mut once = Vec::new();
    announced.into_iter().for_each(|step| {
        if !once.contains(&step) {
            once.push(step);
        }
    });
    assert_eq!(once, steps);
}

/// That nothing which the relay was given gives away records, but for the notices that bring them.
fn assert_secret(site: &Site) {
    let state = site.relay.state();
    let roots = state
        .checkpoints
        .iter()
        .map(|notice| Records::new(notice.records[0].step, notice.records.clone()).unwrap().root());
    let roots = roots.flat_map(|root| [root.as_bytes().to_vec(), root.to_hex().into_bytes()]);
    let secrets: Vec<Vec<u8>> = roots.chain([b"gradNorm".to_vec()]).collect();
    let bodies = state.bodies.iter().filter(|body| serde_json::from_slice::<CheckpointNotice>(body).is_err());
    let commits = state.checkpoints.iter().map(|notice| notice.commit.unverified_payload());
    for bytes in state.blobs.values().chain(bodies).map(|bytes| &bytes[..]).chain(commits) {
        for secret in &secrets {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "records in what was uploaded"
            );
        }
    }
}

#[test]
fn each_interval_is_committed_with_its_records() {
    let site = Site::new(STEPS, 2);
    for pod in site.pods() {
        pod.end().assert(0, &["finished after step 10"]);
    }
    assert_all(&site);
    assert_secret(&site);
    let work = site.job.dir.path().join("pod-0/work");
    let left: Vec<_> =
        fs::read_dir(work.join("records")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["durable"], "nothing secret stays longer than it is needed");
    assert!(
        !fs::read_dir(work.join("job/checkpoints"))
            .unwrap()
            .any(|dir| { dir.unwrap().path().join(RECORDS_FILE).exists() })
    );
}

/// The hub is away, the agent is not: checkpoints do not wait for older ones to be durable, and the pod's end waits for the
/// last. Not one is left out.
#[test]
fn no_interval_is_given_up_while_the_hub_is_away() {
    let site = Site::new(40, 1);
    site.relay.state().no_hub = true;
    let mut pod = site.pod(0);
    site.relay.wait("the last checkpoint", |state| state.commits.len() == 10);
    thread::sleep(Duration::from_millis(500));
    assert!(pod.child.try_wait().unwrap().is_none(), "not durable, not done");
    let kept = fs::read_dir(pod.work().dir().join("records")).unwrap().count();
    assert!(kept >= 20, "records and manifests of what is not durable: {kept}");
    site.relay.state().no_hub = false;
    pod.end().assert(0, &["finished after step 40"]);
    assert_all(&site);
}

/// The relay is away while the workers train: steps go on until too much waits, then the workers wait; everything becomes
/// durable afterwards.
#[test]
fn training_goes_on_without_the_relay_until_too_much_waits() {
    let site = Site::new(120, 2);
    site.relay.state().interval_steps = 4;
    let pods = site.pods();
    site.wait_for_checkpoint();
    // The workers may be far before what is durable: what they do without the relay is counted from there.
    let durable = {
        let mut state = site.relay.state();
        state.down = true;
        state.checkpoints.last().unwrap().step
    };
    pods[0].wait_for_step(durable + 20);
    thread::sleep(Duration::from_secs(3));
    let stopped = pods[0].step();
    // In the sidecar's hands, on the way to it, and in memory.
    assert!(stopped < durable + 4 * (5 + 4 + 4) + 4, "{durable} {stopped}");
    thread::sleep(Duration::from_secs(1));
    assert!(pods[0].step() <= stopped + 4, "it waits");
    site.relay.state().down = false;
    for pod in pods {
        pod.end().assert(0, &["finished after step 120"]);
    }
    assert_eq!(site.relay.state().round, 1, "nobody asked for another round");
    assert_all(&site);
}

#[test]
fn a_busy_relay_and_a_full_disk_are_waited_for() {
    let site = Site::new(STEPS, 1);
    {
        let mut state = site.relay.state();
        (state.busy, state.full) = (3, 2);
    }
    let ended = site.pod(0).end();
    ended.assert(0, &["finished after step 10"]);
    assert!(ended.sidecar.contains("answered 507") && ended.sidecar.contains("trying again"), "{ended:?}");
    let state = site.relay.state();
    assert_eq!((state.busy, state.full), (0, 0));
    drop(state);
    assert_all(&site);
}

/// A restored hub: what was not in the log is void, and the sidecar signs it anew after other terms.
#[test]
fn terms_that_change_are_followed() {
    let site = Site::new(40, 1);
    let mut pod = site.pod(0);
    site.relay.wait("some to be durable", |state| state.checkpoints.len() >= 2);
    site.relay.state().no_hub = true;
    site.relay.wait("the last checkpoint", |state| state.commits.len() == 10);
    let (durable, before) = {
        let mut state = site.relay.state();
        let ids: Vec<Digest> = state.commits.iter().map(|commit| commit.id).collect();
        state.restore();
        (state.commits.len(), ids)
    };
    assert!(durable < 10);
    // While the hub is still away, and the sidecar dies in the middle of it.
    site.relay.wait("some to be signed anew", |state| state.commits.len() > durable);
    pod.kill_sidecar();
    pod.start_sidecar();
    site.relay.wait("all to be signed anew", |state| state.commits.len() == 10);
    site.relay.state().no_hub = false;
    pod.end().assert(0, &["finished after step 40"]);
    {
        let state = site.relay.state();
        for (at, commit) in state.commits.iter().enumerate() {
            assert_eq!(commit.id == before[at], at < durable, "{at}");
        }
    }
    // Each was announced at least twice, so the order of all is not that of the steps.
    let root = site.want();
    let state = site.relay.state();
    assert_eq!(state.checkpoints.last().map(|last| last.state_root), Some(root));
    assert_eq!(state.checkpoints.iter().map(|notice| notice.step).collect::<Vec<_>>(), ends(40, 4));
}

/// An agent that has lost an interval which the sidecar has forgotten: only a new attempt helps, and the pod says so.
#[test]
fn an_interval_that_is_nowhere_any_more_ends_the_pod() {
    let site = Site::new(100_000, 1);
    let pod = site.pod(0);
    site.relay.wait("some to be durable", |state| state.checkpoints.len() >= 3);
    site.relay.state().commits.clear();
    pod.end().assert(69, &["the relay wants the interval that ends with step 20 first"]);
}

/// Sidecar and worker die at all sorts of moments: each interval is committed once, as one record, with its own records,
/// after a start from a checkpoint too.
#[test]
fn kills_at_any_moment_lose_and_double_nothing() {
    let site = Site::new(240, 1);
    site.relay.state().interval_steps = 4;
    let mut pod = site.pod(0);
    for moment in 0..12u64 {
        if moment % 6 == 5 {
            let from = site.relay.state().commits.len();
            site.relay.wait("progress", |state| state.commits.len() > from || state.commits.len() == 60);
            if pod.step() < 230 {
                pod.kill_worker();
            }
        } else {
            thread::sleep(Duration::from_millis(moment * 37 % 190));
            pod.kill_sidecar();
            pod.start_sidecar();
        }
    }
    let ended = pod.end();
    ended.assert(0, &["finished after step 240"]);
    assert!(ended.stderr.contains("round 2"), "{ended:?}");
    assert_all(&site);
    let state = site.relay.state();
    assert!(state.start.as_ref().is_some_and(|start| start.step >= 4), "it went on from a checkpoint");
    for (step, id) in &state.announced {
        let known = state.commits.iter().find(|commit| commit.notice.step == *step);
        assert_eq!(known.map(|known| known.id), Some(*id), "one interval, one record");
    }
}

/// What the trainer's container writes is foreign. Here somebody in it writes other records into a hand-over before the
/// sidecar is there.
#[test]
fn records_that_are_none_end_the_pod() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("not in canonical form", |path| {
            let text = fs::read_to_string(path).unwrap().replace(",{", ", {");
            fs::write(path, text).unwrap();
        }),
        ("of step", |path| {
            let text = fs::read_to_string(path).unwrap().replace("\"step\":2}", "\"step\":3}");
            fs::write(path, text).unwrap();
        }),
        ("want those of the steps 1 to 4", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, format!("[{}", text.split_once("},").unwrap().1)).unwrap();
        }),
        ("too many levels of symbolic links", |path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/proc/self/environ", path).unwrap();
        }),
        ("not a file", |path| {
            fs::remove_file(path).unwrap();
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
    ];
    for (what, change) in changes {
        let site = Site::new(STEPS, 1);
        let mut pod = site.pod_without_sidecar(0);
        pod.wait_for_step(STEPS);
        let path = pod.work().handover(1, 4).join(RECORDS_FILE);
        // A step is printed before its state is written.
        let end = Instant::now() + Duration::from_secs(10);
        while !path.is_file() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(5));
        }
        change(&path);
        pod.start_sidecar();
        let ended = pod.end();
        assert_eq!(ended.code, Some(67), "{what}: {ended:?}");
        let words = ended.last_words.to_lowercase();
        assert!(words.contains(what), "{what}: {ended:?}");
        let state = site.relay.state();
        assert!(state.commits.is_empty(), "{what}");
    }
}

/// With the stop rule the last commit is that of an earlier interval, and says so: the relay compares it with spec and records.
#[test]
fn the_commit_that_ends_a_job_says_so() {
    let job = |stop_at: Option<&str>| Job::stopping(&model(), &training(), 4, 13, stop_at);
    let whole = job(None);
    let out = whole.out("out");
    crate::common::run_one(&whole, &out, &["--interval-steps", "4"]).root();
    let at = records::read(&records::path(&out, 8), 8).unwrap().as_slice()[3].eval_loss.unwrap();
    let site = Site::of(job(Some(&format!("{:?}", at.number()))), 2);
    for pod in site.pods() {
        pod.end().assert(0, &["finished after step 8"]);
    }
    let state = site.relay.state();
    let said = state.checkpoints.iter().map(|notice| {
        let commit = Commit::from_payload(notice.commit.unverified_payload()).unwrap();
        (commit.last_step.get(), commit.ends)
    });
    assert_eq!(said.collect::<Vec<_>>(), [(4, false), (8, true)]);
    assert_eq!(state.refused, [""; 0]);
}

/// The worker's last interval may be shorter, and a replay of any interval gives the records of its commit.
#[test]
fn a_replay_gives_what_was_committed() {
    let site = Site::new(STEPS, 1);
    site.pod(0).end().assert(0, &[]);
    let spec = TrainingSpec::from_json(&fs::read(&site.job.spec).unwrap()).unwrap();
    assert_eq!(spec.training.steps, STEPS);
    let state = site.relay.state();
    let out = site.job.out("replay");
    for commit in &state.commits {
        let last = commit.notice.step.to_string();
        let first = (commit.notice.records[0].step - 1).to_string();
        let ended = crate::common::run_one(&site.job, &out, &["--from-step", &first, "--last-step", &last]);
        assert_eq!(ended.root(), commit.notice.state_root);
        let replayed = records::read(&records::path(&out, commit.notice.step), commit.notice.step).unwrap();
        assert_eq!(replayed.as_slice(), commit.notice.records);
    }
}
