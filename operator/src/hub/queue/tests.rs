use std::collections::BTreeMap;

use muster_api::v1alpha1::WorkUnit;
use muster_core::placement::Request;
use muster_core::queue::{Holding, Leave, Plan, Size};

use super::plan::Input;
use super::*;

fn ask(job: &str) -> Ask {
    Ask {
        job: job.into(),
        tenant: "team-a".into(),
        priority: 0,
        made: 0,
        waited: Duration::ZERO,
        owed: false,
        moves: false,
        size: Size::fixed(2),
        request: Request::of(2, "cpu", "f32-chain", "sha256:55"),
    }
}

fn object(job: &str) -> Wakes {
    ObjectRef::new(job).within("team-a")
}

fn waits() -> Answer {
    Answer::NoCapacity { message: "0/1 providers: 1 lacks 2 idle workers".into() }
}

fn on_east() -> Answer {
    Answer::On { provider: "east".into(), min_epoch: 1, workers: 2 }
}

/// Asks, and the plan says this.
fn told(table: &mut Table, job: &str, answer: Answer) -> Vec<Wakes> {
    let Entered::Waits(number) = table.enter(ask(job), object(job), None) else {
        panic!("{job} has an answer already")
    };
    conclude(table, number, &[(job, answer)])
}

fn conclude(table: &mut Table, number: u64, answers: &[(&str, Answer)]) -> Vec<Wakes> {
    let answers = answers.iter().map(|(job, answer)| ((*job).to_owned(), answer.clone())).collect();
    let plan = Plan { answers, ..Plan::default() };
    let input = Input { asks: vec![], holdings: vec![], candidates: vec![], weights: BTreeMap::new() };
    table.conclude(number, plan, &input, &None)
}

fn is_told(table: &mut Table, job: &str) -> Option<Answer> {
    match table.enter(ask(job), object(job), None) {
        Entered::Answered(turn) => Some(turn.answer),
        Entered::Waits(_) => None,
    }
}

async fn after(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_the_same_again_is_told_the_same() {
    let mut table = Table::default();
    assert_eq!(told(&mut table, "a", waits()), [], "it stands there and waits for it");
    assert_eq!(is_told(&mut table, "a"), Some(waits()));
    let other = Ask { priority: 1, ..ask("a") };
    assert!(matches!(table.enter(other, object("a"), None), Entered::Waits(_)), "not the same");
    assert_eq!(is_told(&mut table, "a"), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_gets_old_and_a_promise_sooner() {
    let mut table = Table::default();
    told(&mut table, "a", waits());
    told(&mut table, "b", on_east());
    after(4).await;
    assert_eq!(is_told(&mut table, "b"), Some(on_east()));
    after(2).await;
    assert_eq!(is_told(&mut table, "b"), None, "the provider may be gone by now");
    after(30).await;
    assert_eq!(is_told(&mut table, "a"), Some(waits()));
    after(46).await;
    assert_eq!(is_told(&mut table, "a"), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_promised_is_kept_until_it_is_taken_or_a_minute_is_over() {
    let mut table = Table::default();
    told(&mut table, "a", on_east());
    let (asks, kept) = table.wants(None);
    assert_eq!((asks.len(), kept.len()), (0, 1));
    assert_eq!((kept[0].provider.as_str(), kept[0].workers, kept[0].leaves), ("east", 2, false));
    after(61).await;
    let (asks, kept) = table.wants(None);
    assert_eq!((asks.len(), kept.len()), (1, 0), "nothing came of it");
    assert!(table.is_awaited() && table.withdraw("a") && !table.is_awaited());
    assert_eq!(table.wants(Some(&BTreeMap::new())).0, []);
}

/// Between the list of units and the plan that is made of it, a promise becomes a unit: in neither of the two, it would be
/// given away a second time.
#[tokio::test(start_paused = true)]
async fn what_becomes_a_unit_while_units_are_listed_is_kept_still() {
    let unit: WorkUnit = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "aeaf52fe-0-1", "namespace": "muster-p-east"},
        "spec": {
            "kind": "Train", "jobUID": "a", "island": 0, "epoch": 1, "workers": 2, "desired": "Run",
            "envelope": {"payload": "", "signatures": [], "payloadType": "x"},
        },
    }))
    .unwrap();
    let mut table = Table::default();
    told(&mut table, "a", on_east());
    let before = table.made_so_far();
    table.made("a", &unit);
    assert_eq!(table.wants(None), (vec![], vec![]));
    let [held] = &table.made_since(before, |_| false)[..] else { panic!("it is in no list") };
    assert_eq!((held.job.as_str(), held.provider.as_str(), held.workers), ("a", "east", 2));
    assert_eq!(table.made_since(before, |unit| unit == "aeaf52fe-0-1"), [], "it is in this one");
    // The next list is begun after it was made.
    let before = table.made_so_far();
    assert_eq!((before, table.made_since(before, |_| false)), (1, vec![]));
    assert_eq!(table.made_so_far(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_gets_another_answer_is_woken() {
    let mut table = Table::default();
    told(&mut table, "a", waits());
    assert_eq!(conclude(&mut table, 1, &[("a", waits())]), []);
    let words = Answer::NoCapacity { message: "0/2 providers: 2 lack 2 idle workers".into() };
    assert_eq!(conclude(&mut table, 1, &[("a", words.clone())]), [], "told a moment ago");
    after(10).await;
    assert_eq!(conclude(&mut table, 1, &[("a", waits())]), [object("a")], "other words, after a while");
    assert_eq!(conclude(&mut table, 1, &[("a", on_east())]), [object("a")]);
    assert_eq!(is_told(&mut table, "a"), Some(on_east()));
}

/// Once it is on its way a plan does without it; people must still be told why it goes.
#[test]
fn why_a_job_makes_way_is_known_until_its_unit_is_over() {
    let mut table = Table::default();
    let mut with = |leave: Option<Leave>, leaves: Option<bool>| {
        let plan = Plan {
            leave: leave.map(|leave| ("a".to_owned(), leave)).into_iter().collect(),
            ..Plan::default()
        };
        let holdings = leaves.map(|leaves| Holding { leaves, ..table::holding(&ask("a"), "east", 2) });
        let holdings = holdings.into_iter().collect();
        let input = Input { asks: vec![], holdings, candidates: vec![], weights: BTreeMap::new() };
        table.conclude(1, plan, &input, &None);
        table.leave("a")
    };
    let why = Some(Leave::Preempted { message: "for a more important job".into() });
    assert_eq!(with(why.clone(), Some(false)), why);
    assert_eq!(with(None, Some(true)), why, "it has been asked and is still there");
    assert_eq!(with(None, None), None, "it is over");
    assert_eq!(with(None, Some(true)), None, "somebody else has asked it");
    assert_eq!(
        (with(why.clone(), Some(false)), with(None, Some(false))),
        (why, None),
        "nobody wants it any more"
    );
}

#[test]
fn a_job_that_is_gone_asks_no_more() {
    let mut table = Table::default();
    let _ = table.enter(ask("a"), object("a"), None);
    let (asks, _) = table.wants(Some(&BTreeMap::new()));
    assert_eq!((asks.len(), table.is_awaited()), (0, false));
}
