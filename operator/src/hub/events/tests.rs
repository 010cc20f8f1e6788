//! What becomes an event, when, and what does not.
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::Method;
use axum::{Json, Router};
use serde_json::Value;

use super::*;

/// From one event to the next, when many wait.
const EVERY: Duration = Duration::from_millis(200);

/// An API server that takes whatever comes, and when it came.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<(Instant, Method, Value)>>>);

impl Taken {
    fn recorder(&self) -> Recorder {
        let take = async |State(taken): State<Self>, method: Method, body: Bytes| {
            let body: Value = serde_json::from_slice(&body).unwrap();
            taken.0.lock().unwrap().push((Instant::now(), method, body.clone()));
            let shown = json!({"metadata": {"name": "it"}, "involvedObject": {}});
            Json(shown)
        };
        let service = Router::new().fallback(take).with_state(self.clone());
        Recorder::new(Client::new(service, "default"), "muster-hub")
    }

    fn all(&self) -> Vec<(Instant, Method, Value)> {
        self.0.lock().unwrap().clone()
    }
}

fn job(number: usize) -> ObjectReference {
    let uid = format!("00000000-0000-4000-8000-{number:012}");
    ObjectReference { name: Some(format!("job-{number}")), uid: Some(uid), ..ObjectReference::default() }
}

fn over() -> Shutdown {
    let over = Shutdown::manual();
    over.trigger();
    over
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_sent_and_then_a_few_each_second() {
    let taken = Taken::default();
    let (recorder, stop, began) = (taken.recorder(), Shutdown::manual(), Instant::now());
    for number in 0..35 {
        recorder.tell(&job(number), &News::normal("Placed", "on east"), Timestamp::UNIX_EPOCH);
    }
    let people = async {
        tokio::time::sleep(EVERY * 20).await;
        stop.trigger();
    };
    tokio::join!(recorder.run(&stop), people);
    let after: Vec<Duration> = taken.all().iter().map(|(at, ..)| *at - began).collect();
    assert_eq!(after.len(), 35);
    let at_once = after.iter().filter(|after| **after < EVERY).count();
    assert!((25..=26).contains(&at_once), "{after:?}");
    assert!(after.windows(2).skip(26).all(|two| two[1] - two[0] >= EVERY * 9 / 10), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn repeats_are_folded_before_and_after_they_are_sent() {
    let taken = Taken::default();
    let (recorder, stop) = (taken.recorder(), Shutdown::manual());
    let saved =
        |step: u32| News { fold: Fold::Newest, ..News::normal("CheckpointSaved", format!("step {step}")) };
    for step in [10, 20, 30] {
        recorder.tell(&job(1), &saved(step), Timestamp::UNIX_EPOCH);
    }
    recorder.tell(&job(1), &News::warning("Restarted", "restart 1"), Timestamp::UNIX_EPOCH);
    recorder.tell(&job(1), &News::warning("Restarted", "restart 2"), Timestamp::UNIX_EPOCH);
    let people = async {
        tokio::time::sleep(EVERY).await;
        recorder.tell(&job(1), &saved(40), Timestamp::UNIX_EPOCH);
        tokio::time::sleep(EVERY).await;
        stop.trigger();
    };
    tokio::join!(recorder.run(&stop), people);
    let said = |(_, method, body): &(Instant, Method, Value)| {
        format!("{method} {} {}", body["count"], body["message"].as_str().unwrap())
    };
    let all: Vec<String> = taken.all().iter().map(said).collect();
    assert_eq!(all, ["POST 3 step 30", "POST 1 restart 1", "POST 1 restart 2", "PATCH 4 step 40"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_longest_is_left_out_and_the_rest_is_sent_at_the_end() {
    let taken = Taken::default();
    let recorder = taken.recorder();
    for number in 0..MAX_WAITING + 3 {
        recorder.tell(&job(number), &News::normal("Placed", "on east"), Timestamp::UNIX_EPOCH);
    }
    recorder.run(&over()).await;
    let all = taken.all();
    assert_eq!((all.len(), &all[0].2["involvedObject"]["name"]), (MAX_WAITING, &json!("job-3")));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_server_that_does_not_answer() {
    let service = tower::service_fn(|_: axum::http::Request<kube::client::Body>| async {
        std::future::pending::<Result<axum::http::Response<kube::client::Body>, std::io::Error>>().await
    });
    let recorder = Recorder::new(Client::new(service, "default"), "muster-hub");
    let began = Instant::now();
    recorder.tell(&job(1), &News::normal("Placed", "on east"), Timestamp::UNIX_EPOCH);
    recorder.run(&over()).await;
    assert_eq!(began.elapsed().as_secs(), LAST_WORDS.as_secs());
}
