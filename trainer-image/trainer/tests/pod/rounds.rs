//! Rounds of training, the peers in them, and what pods fetch.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_trainer::checkpoint::{self, Store};
use muster_trainer::records;
use muster_trainer::work::Work;

use crate::common::{Job, STEPS, model, training};
use crate::relay::State;
use crate::site::{Pod, Site, handed_over};

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

/// The spec leads a pod to the data that it is evaluated on.
#[test]
fn pods_evaluate() {
    let site = Site::of(Job::evaluated(&model(), &training(), 3, 13), 2);
    let ended: Vec<_> = site.pods().into_iter().map(Pod::end).collect();
    let root = site.want();
    ended[0].assert(0, &["finished after step 10", &root.to_string()]);
    let state = site.relay.state();
    let notices = state.checkpoints.iter().flat_map(|notice| &notice.records);
    let evaluated: Vec<_> = notices.filter(|r| r.eval_loss.is_some()).copied().collect();
    let of = |end| records::read(&records::path(&site.job.out("want"), end), end).unwrap();
    let want: Vec<_> = [4, 8, 10]
        .into_iter()
        .flat_map(|end| of(end).as_slice().to_vec())
        .filter(|r| r.eval_loss.is_some())
        .collect();
    assert_eq!(want.iter().map(|record| record.step).collect::<Vec<_>>(), [3, 6, 9, 10]);
    assert_eq!(evaluated, want);
    let last = format!("{:?}", want[3].eval_loss.unwrap().number());
    assert!(ended[0].stdout.contains(&format!("evalLoss {last} ")), "{}", ended[0].stdout);
    let progress = state.progress.last().unwrap();
    assert!(progress.step < 3 || progress.eval_loss.is_some(), "{progress:?}");
}

/// The spec leads a pod to the weights that the job begins with; what is no such state ends it before the first step.
#[test]
fn pods_begin_with_given_weights() {
    let site = Site::of(Job::tuned(&model(), &training()), 2);
    let ended: Vec<_> = site.pods().into_iter().map(Pod::end).collect();
    let root = site.want();
    ended[0].assert(0, &["finished after step 10", &root.to_string()]);
    assert_ne!(root, Site::of(Job::with(&model(), &training()), 1).want(), "not the weights of the seed");

    let site = Site::of(Job::tuned(&model(), &training()), 1);
    let (spec, claimed) = (fs::read_to_string(&site.job.spec).unwrap(), Digest::of(b"another state"));
    let genesis = site.job.weights.as_ref().unwrap().1.state_root().to_string();
    let lie = spec.replace(&genesis, &claimed.to_string()).into_bytes();
    let digest = Digest::of(&lie);
    let mut state = site.relay.state();
    state.blobs.insert(digest, lie);
    state.spec = digest;
    drop(state);
    site.pod(0).end().assert(67, &["genesis: is ", &claimed.to_string()]);
}

/// Whoever stands between pod and relay, or is the relay without its key, makes no peer. The pod asks again until its
/// patience ends.
#[test]
fn a_list_of_peers_that_is_not_the_relays_is_refused() {
    type Change = fn(&mut State);
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
        site.wait_for_checkpoint();
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
    site.wait_for_checkpoint();
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
