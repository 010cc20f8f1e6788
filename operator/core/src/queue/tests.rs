use super::*;
use crate::placement::{Availability, Device, TrustTier};

mod steady;

pub(super) fn request(workers: u32) -> Request {
    Request::of(workers, "cpu", "f32-chain", "sha256:55")
}

/// `name` is the tenant, a dash and a number by which the job's age goes: `a-1`.
pub(super) fn ask(name: &str, workers: u32) -> Ask {
    let (tenant, made) = name.split_once('-').unwrap();
    Ask {
        job: name.into(),
        tenant: tenant.into(),
        priority: 0,
        made: made.parse().unwrap(),
        waited: Duration::ZERO,
        owed: false,
        moves: false,
        size: Size::fixed(workers),
        request: request(workers),
    }
}

pub(super) fn held(name: &str, provider: &str, workers: u32) -> Holding {
    Holding {
        job: name.into(),
        tenant: name.split_once('-').unwrap().0.into(),
        priority: 0,
        provider: provider.into(),
        device_class: "cpu".into(),
        workers,
        size: Size::fixed(workers),
        age: Duration::from_secs(3600),
        leaves: false,
        grows: Some(request(1)),
    }
}

/// With so many workers, of which the holdings have some.
pub(super) fn provider(name: &str, workers: u32, holdings: &[Holding]) -> Candidate {
    let assigned = holdings.iter().filter(|held| held.provider == name).map(|held| held.workers).sum();
    let cpu = Device { workers, idle: workers.saturating_sub(assigned), assigned, pending: 0, price: None };
    Candidate {
        name: name.into(),
        availability: Availability::Ready,
        trust: TrustTier::Untrusted,
        owner: "acme".into(),
        region: None,
        min_epoch: 1,
        units_left: None,
        devices: BTreeMap::from([("cpu".into(), cpu)]),
        arithmetic: vec!["f32-chain".into()],
        images: vec!["sha256:55".into()],
        reliability: None,
    }
}

fn weights(all: &[(&str, u32)]) -> BTreeMap<String, u32> {
    all.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

/// One provider, `east`.
fn on_east(workers: u32, asks: &[Ask], holdings: &[Holding]) -> Plan {
    plan(asks, holdings, &[provider("east", workers, holdings)], &BTreeMap::new())
}

/// Who got something, in the order of names.
fn placed(plan: &Plan) -> Vec<&str> {
    let on = plan.answers.iter().filter(|(_, answer)| matches!(answer, Answer::On { .. }));
    on.map(|(job, _)| job.as_str()).collect()
}

fn leaves(plan: &Plan) -> Vec<&str> {
    plan.leave.keys().map(String::as_str).collect()
}

fn message<'a>(plan: &'a Plan, job: &str) -> &'a str {
    match &plan.answers[job] {
        Answer::NoCapacity { message } => message,
        other => panic!("{job}: {other:?}"),
    }
}

#[test]
fn whoever_has_least_for_its_weight_is_next() {
    let asks: Vec<Ask> =
        (1..=9).flat_map(|n| ["a", "b", "c"].map(|who| ask(&format!("{who}-{n}"), 1))).collect();
    let all = plan(&asks, &[], &[provider("east", 6, &[])], &weights(&[("b", 2), ("c", 3)]));
    assert_eq!(placed(&all), ["a-1", "b-1", "b-2", "c-1", "c-2", "c-3"]);
    assert_eq!(message(&all, "a-2"), "0/1 providers: 1 lacks 1 idle worker; next of a for cpu");
    assert_eq!(message(&all, "a-4"), "0/1 providers: 1 lacks 1 idle worker; 2 of a before it for cpu");
}

#[test]
fn what_is_idle_is_anybodys() {
    let asks: Vec<Ask> = (1..=6).map(|n| ask(&format!("a-{n}"), 1)).collect();
    let all = plan(&asks, &[], &[provider("east", 6, &[])], &weights(&[("a", 1), ("b", 100)]));
    assert_eq!(placed(&all).len(), 6);
}

#[test]
fn within_a_tenant_priority_then_age() {
    let important = Ask { priority: 5, ..ask("a-9", 1) };
    let asks = [ask("a-2", 1), ask("a-1", 1), important];
    assert_eq!(placed(&on_east(1, &asks, &[])), ["a-9"]);
    assert_eq!(placed(&on_east(2, &asks, &[])), ["a-1", "a-9"]);
}

#[test]
fn who_does_not_fit_lets_the_next_one_try() {
    let all = on_east(3, &[ask("a-1", 4), ask("a-2", 2)], &[]);
    assert_eq!(placed(&all), ["a-2"]);
    let nowhere = Ask { request: Request { allowed: vec!["west".into()], ..request(1) }, ..ask("a-1", 1) };
    let all = on_east(1, &[nowhere, ask("a-2", 1)], &[]);
    assert_eq!(placed(&all), ["a-2"]);
    let why = "0/1 providers: 1 not in placement.providers".to_owned();
    assert_eq!(all.answers["a-1"], Answer::NoneEligible { message: why });
    let none = plan(&[ask("a-1", 1)], &[], &[], &BTreeMap::new());
    assert_eq!(none.answers["a-1"], Answer::NoProviders);
}

#[test]
fn a_higher_priority_takes_from_the_same_tenant_only() {
    let holdings = [held("a-1", "east", 2), held("b-1", "east", 2)];
    let important = Ask { priority: 1, ..ask("a-2", 2) };
    let all = on_east(4, &[important], &holdings);
    assert_eq!(leaves(&all), ["a-1"]);
    let told = "a job of priority 1 needs its workers on east".to_owned();
    assert_eq!(all.leave["a-1"], Leave::Preempted { message: told });
    assert!(message(&all, "a-2").contains("others on east are asked to make way"));
    assert_eq!(leaves(&on_east(4, &[ask("a-2", 2)], &holdings)), [""; 0], "equals wait");
    let huge = Ask { priority: 1000, ..ask("a-2", 4) };
    assert_eq!(leaves(&on_east(4, &[huge], &holdings)), [""; 0], "priority counts for nothing among others");
}

#[test]
fn a_share_is_taken_back_and_stays() {
    let holdings: Vec<Holding> = (1..=4).map(|n| held(&format!("b-{n}"), "east", 1)).collect();
    let all = on_east(4, &[ask("a-1", 1), ask("a-2", 1), ask("a-3", 1)], &holdings);
    assert_eq!(all.leave.len(), 2, "half is its share: {all:?}");
    let mine =
        [held("a-1", "east", 1), held("a-2", "east", 1), held("b-1", "east", 1), held("b-2", "east", 1)];
    assert_eq!(leaves(&on_east(4, &[ask("a-3", 1), ask("b-3", 1)], &mine)), [""; 0], "and nobody takes more");
}

#[test]
fn nobody_is_asked_twice_for_the_same() {
    let leaving = Holding { leaves: true, ..held("b-1", "east", 2) };
    let holdings = [leaving, held("b-2", "east", 2)];
    let all = on_east(4, &[ask("a-1", 2)], &holdings);
    assert_eq!(leaves(&all), [""; 0]);
    assert!(message(&all, "a-1").contains("on east others end their interval for it"));
    let two = on_east(4, &[ask("a-1", 2), ask("c-1", 2)], &holdings);
    assert_eq!(leaves(&two), [""; 0], "b keeps what it then has alone: 2, no more than c would have");
}

#[test]
fn the_fewest_workers_are_interrupted() {
    let holdings = [held("b-1", "east", 4), held("b-2", "west", 2), held("b-3", "west", 2)];
    let all = [provider("east", 4, &holdings), provider("west", 4, &holdings)];
    let plan = |workers| super::plan(&[ask("a-1", workers)], &holdings, &all, &BTreeMap::new());
    assert_eq!(leaves(&plan(2)), ["b-2"]);
    assert_eq!(leaves(&plan(4)), ["b-1"], "one of 4 rather than two of 2");
}

#[test]
fn what_gets_free_is_kept_for_who_has_waited_long() {
    let holdings = [held("a-1", "east", 2)];
    let big = ask("a-2", 4);
    let small = ask("a-3", 2);
    assert_eq!(placed(&on_east(4, &[big.clone(), small.clone()], &holdings)), ["a-3"]);
    let starved = Ask { waited: STARVES_AFTER, ..big };
    let all = on_east(4, &[starved.clone(), small], &holdings);
    assert_eq!(placed(&all), [""; 0]);
    assert!(message(&all, "a-2").contains("what gets free on east is kept for it"), "{all:?}");
    let others = [provider("east", 4, &holdings), provider("west", 2, &[])];
    let all = plan(&[starved, ask("a-3", 2)], &holdings, &others, &BTreeMap::new());
    assert_eq!(placed(&all), ["a-3"], "elsewhere life goes on");
}

#[test]
fn an_elastic_job_takes_what_there_is() {
    let size = Size { min: 2, count: 4, max: 8, shards: 8 };
    let elastic = |name: &str| Ask { size, ..ask(name, 4) };
    let workers = |plan: &Plan, job: &str| match &plan.answers[job] {
        Answer::On { workers, .. } => *workers,
        other => panic!("{other:?}"),
    };
    assert_eq!(workers(&on_east(4, &[elastic("a-1")], &[]), "a-1"), 4);
    assert_eq!(workers(&on_east(3, &[elastic("a-1")], &[]), "a-1"), 3);
    assert_eq!(workers(&on_east(8, &[elastic("a-1")], &[]), "a-1"), 8, "nobody else wants it");
    assert_eq!(workers(&on_east(7, &[elastic("a-1")], &[]), "a-1"), 4, "7 are no faster than 4");
    let both = on_east(7, &[elastic("a-1"), elastic("b-1")], &[]);
    assert_eq!((workers(&both, "a-1"), workers(&both, "b-1")), (4, 3));
    let third = on_east(8, &[elastic("a-1"), elastic("b-1"), elastic("c-1")], &[]);
    assert_eq!(placed(&third), ["a-1", "b-1"]);
    assert!(matches!(on_east(1, &[elastic("a-1")], &[]).answers["a-1"], Answer::NoneEligible { .. }));
}

#[test]
fn what_nobody_waits_for_lets_units_grow() {
    let size = Size { min: 1, count: 2, max: 8, shards: 8 };
    let small = Holding { size, ..held("a-1", "east", 2) };
    let grows =
        |workers, asks: &[Ask], held: &Holding| on_east(workers, asks, std::slice::from_ref(held)).leave;
    let to = |workers| BTreeMap::from([("a-1".to_owned(), Leave::Resized { workers })]);
    assert_eq!(grows(8, &[], &small), to(8));
    assert_eq!(grows(7, &[], &small), to(4));
    assert_eq!(grows(2, &[], &small), BTreeMap::new(), "there is nothing");
    assert_eq!(grows(8, &[ask("b-1", 5)], &small), to(3), "what the other one leaves");
    assert_eq!(grows(8, &[ask("b-1", 7)], &small), BTreeMap::new(), "somebody waits");
    let young = Holding { age: GROWS_AFTER - Duration::from_secs(1), ..small };
    assert_eq!(grows(8, &[], &young), BTreeMap::new(), "too soon");
}

#[test]
fn a_provider_without_a_unit_left_is_full() {
    let holdings = [held("b-1", "east", 1), held("b-2", "east", 1)];
    let full = Candidate { units_left: Some(0), ..provider("east", 8, &holdings) };
    let all = plan(&[ask("a-1", 1)], &holdings, &[full], &BTreeMap::new());
    assert_eq!(all.leave.len(), 1, "{all:?}");
}

#[test]
fn the_job_goes_back_to_its_checkpoints() {
    let checkpoints = BTreeSet::from(["west".to_owned()]);
    let ask = Ask { request: Request { checkpoints, ..request(1) }, ..ask("a-1", 1) };
    let all = plan(&[ask], &[], &[provider("east", 8, &[]), provider("west", 2, &[])], &BTreeMap::new());
    assert!(matches!(&all.answers["a-1"], Answer::On { provider, .. } if provider == "west"));
}

#[test]
fn a_move_interrupts_nobody_and_keeps_nothing() {
    let holdings = [held("b-1", "east", 2), held("b-2", "east", 2)];
    let asked = on_east(4, &[ask("a-1", 2)], &holdings);
    assert_eq!(leaves(&asked), ["b-1"], "a job without a provider is made room for");
    let moves = Ask { moves: true, ..ask("a-1", 2) };
    let plan = on_east(4, std::slice::from_ref(&moves), &holdings);
    assert_eq!(leaves(&plan), [""; 0]);
    assert_eq!(message(&plan, "a-1"), "0/1 providers: 1 lacks 2 idle workers");
    assert!(plan.owed.is_empty());
    // One that asks the same way, and has none, is not put off by that answer.
    let plan = on_east(4, &[moves.clone(), ask("a-2", 2)], &holdings);
    assert_eq!(leaves(&plan), ["b-1"]);
    let plan = on_east(4, &[moves], &holdings[..1]);
    assert_eq!(placed(&plan), ["a-1"], "what is idle it gets");
}

#[test]
fn nobody_grows_where_nothing_new_goes() {
    let size = Size { min: 1, count: 2, max: 8, shards: 8 };
    let small = Holding { size, ..held("a-1", "east", 2) };
    let grown = |held: &Holding, change: fn(&mut Candidate)| {
        let mut east = provider("east", 8, std::slice::from_ref(held));
        change(&mut east);
        !plan(&[], std::slice::from_ref(held), &[east], &BTreeMap::new()).leave.is_empty()
    };
    assert!(grown(&small, |_| ()));
    assert!(!grown(&small, |east| east.availability = Availability::Cordoned));
    assert!(!grown(&small, |east| east.images.clear()), "a new unit would not be allowed");
    assert!(!grown(&Holding { grows: None, ..small }, |_| ()));
}
