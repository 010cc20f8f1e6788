//! The sidecar comes late, dies, and is lied to.

use std::fs;
use std::thread;
use std::time::Duration;

use muster_proof::key::SigningKey;
use muster_trainer::checkpoint::Store;
use muster_trainer::work::Work;

use crate::common::{self, Job, STEPS, run_one};
use crate::site::{Pod, Site, handed_over};

/// The sidecar dies again and again and the kubelet starts it again: no step is lost, nobody asks for another round, and
/// the key stays the one that was bound. While it is away the worker waits at some point; that is no failure.
#[test]
fn a_sidecar_that_is_started_again_goes_on() {
    let site = Site::new(400, 2);
    let want = site.want();
    let mut pods = site.pods();
    for step in [20, 80, 140] {
        pods[0].wait_for_step(step);
        site.wait_for_checkpoint();
        pods[0].kill_sidecar();
        thread::sleep(Duration::from_millis(500));
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

/// While the sidecar is away only a few states wait on the disk, each of them; then the worker waits, and when the sidecar
/// does not come the pod ends.
#[test]
fn a_worker_waits_for_a_sidecar_that_stays_away() {
    let site = Site::new(200, 1);
    site.relay.state().interval_steps = 4;
    let pod = site.pod_without_sidecar(0);
    pod.wait_for_step(16);
    thread::sleep(Duration::from_millis(1000));
    let mut waiting = handed_over(&pod.work());
    waiting.sort();
    assert_eq!(waiting, ["1-12", "1-16", "1-4", "1-8"]);
    assert!(pod.step() < 40, "it waits: {}", pod.step());
    pod.end().assert(69, &["the sidecar cannot be reached for 3 s"]);
}

/// Another key was bound to this rank: what this sidecar signs counts for nothing, and the pod says so.
#[test]
fn another_key_is_not_replaced() {
    let site = Site::new(STEPS, 1);
    let stranger = SigningKey::generate([9; 32]).unwrap();
    site.relay.state().keys.insert(0, stranger.public().clone());
    let ended = site.pod(0).end();
    ended.assert(69, &["durable at the hub", "another key is bound"]);
    assert!(site.relay.state().announced.is_empty());
}

/// An agent that lost its memory knows no key: the sidecar binds its own again.
#[test]
fn a_forgotten_key_is_bound_again() {
    let site = Site::new(300, 1);
    let pod = site.pod(0);
    site.wait_for_checkpoint();
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
