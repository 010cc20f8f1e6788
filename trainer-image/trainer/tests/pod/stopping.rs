//! All the ways in which a pod ends.

use std::thread;
use std::time::{Duration, Instant};

use muster_trainer::checkpoint::{self, Store};
use muster_trainer::protocol::Desired;

use crate::common::{self, Job, STEPS};
use crate::site::{Site, handed_over, signal};

/// The kubelet's SIGTERM with a relay that is away: what was handed over is waited for as long as the grace allows, and
/// nothing half is left.
#[test]
fn a_stop_lets_what_was_handed_over_become_durable() {
    let site = Site::new(100_000, 1);
    let pod = site.pod(0);
    pod.wait_for_step(8);
    site.relay.state().down = true;
    let from = pod.step();
    pod.wait_for_step(from + 25);
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
    let mut pods = site.pods().into_iter();
    pods.next().unwrap().end().assert(65, &["is not finite"]);
    assert!(site.relay.state().ended, "the log knows before the pod ends");
    // The other rank has nothing to say, and leaves the attempt to rank 0 until it is over.
    let mut other = pods.next().unwrap();
    assert!(other.child.try_wait().unwrap().is_none());
    site.relay.state().over = true;
    other.end().assert(65, &["is not finite"]);
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
