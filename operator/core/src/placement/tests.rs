use super::*;

const IMAGE: &str = "sha256:55";

fn request(workers: u32) -> Request {
    Request::of(workers, "cpu", "f32-chain", IMAGE)
}

fn candidate(name: &str, idle: u32) -> Candidate {
    let cpu = Device { workers: 8, idle, assigned: 0, pending: 0, price: None };
    Candidate {
        name: name.into(),
        availability: Availability::Ready,
        trust: TrustTier::Untrusted,
        owner: "acme".into(),
        region: Some("eu-north".into()),
        min_epoch: 1,
        units_left: None,
        devices: BTreeMap::from([("cpu".into(), cpu)]),
        arithmetic: vec!["f32-chain".into()],
        images: vec![IMAGE.into()],
        reliability: None,
    }
}

fn on(provider: &str) -> Placement {
    Placement::On { provider: provider.into(), min_epoch: 1 }
}

fn why(request: &Request, candidate: Candidate) -> String {
    match place(request, &[candidate]) {
        Placement::NoCapacity { message } => format!("NoCapacity {message}"),
        Placement::NoneEligible { message } => format!("NoneEligible {message}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn all_who_could_and_why_the_others_could_not() {
    let all = [candidate("west", 1), candidate("north", 0), candidate("east", 8), candidate("south", 0)];
    let (eligible, why) = eligible(&request(1), &all);
    let names: Vec<&str> = eligible.iter().map(|one| one.name.as_str()).collect();
    assert_eq!((names, why.as_str()), (vec!["east", "west"], "2 lack 1 idle worker"));
    assert_eq!(super::eligible(&request(1), &all[..1]).1, "");
}

fn priced(name: &str, idle: u32, price: Option<i64>) -> Candidate {
    let mut candidate = candidate(name, idle);
    candidate.devices.get_mut("cpu").unwrap().price = price;
    candidate
}

#[test]
fn each_filter_says_why() {
    let base = || candidate("east", 8);
    let cases: Vec<(Request, Candidate, &str)> = vec![
        (
            Request { allowed: vec!["west".into()], ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 not in placement.providers",
        ),
        (
            Request { min_trust: TrustTier::Standard, ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 below placement.minTrustTier",
        ),
        (
            Request { exclude_owners: vec!["acme".into()], ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 of an owner in placement.excludeOwners",
        ),
        (
            Request { regions: vec!["us-east".into()], ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 not in placement.regions",
        ),
        (
            Request { max_price: Some(100), ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 names no price for placement.maxPrice",
        ),
        (
            Request { max_price: Some(100), ..request(2) },
            priced("east", 8, Some(101)),
            "NoneEligible 0/1 providers: 1 over placement.maxPrice",
        ),
        (
            request(2),
            Candidate { availability: Availability::Cordoned, ..base() },
            "NoneEligible 0/1 providers: 1 not taking new work",
        ),
        (
            request(2),
            Candidate { availability: Availability::NotReady, ..base() },
            "NoneEligible 0/1 providers: 1 not ready",
        ),
        (
            request(2),
            Candidate { availability: Availability::KeyNotLogged, ..base() },
            "NoneEligible 0/1 providers: 1 has no key in the log yet",
        ),
        (
            Request { device_class: "nvidia-h100-80gb".into(), ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 has no nvidia-h100-80gb devices",
        ),
        (
            Request { arithmetic: "i16-exact".into(), ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 does not offer i16-exact",
        ),
        (
            Request { image_digest: "sha256:66".into(), ..request(2) },
            base(),
            "NoneEligible 0/1 providers: 1 does not allow the trainer image",
        ),
        (
            request(2),
            Candidate { units_left: Some(0), ..base() },
            "NoCapacity 0/1 providers: 1 has no quota of units left",
        ),
        (request(9), base(), "NoneEligible 0/1 providers: 1 lends fewer than 9 workers in all"),
        (request(8), candidate("east", 7), "NoCapacity 0/1 providers: 1 lacks 8 idle workers"),
        (request(1), candidate("east", 0), "NoCapacity 0/1 providers: 1 lacks 1 idle worker"),
    ];
    for (request, candidate, expected) in cases {
        assert_eq!(why(&request, candidate), expected);
    }
}

#[test]
fn the_message_counts_and_orders_rejections() {
    let providers = [
        candidate("a", 1),
        Candidate { availability: Availability::NotReady, ..candidate("b", 8) },
        candidate("c", 0),
    ];
    let expected = "0/3 providers: 2 lack 2 idle workers, 1 not ready".to_string();
    assert_eq!(place(&request(2), &providers), Placement::NoneEligible { message: expected });
}

#[test]
fn no_provider_at_all_has_its_own_answer() {
    assert_eq!(place(&request(1), &[]), Placement::NoProviders);
}

#[test]
fn most_free_then_name_whatever_the_order() {
    let (a, b, c) = (candidate("a", 4), candidate("b", 6), candidate("c", 6));
    assert_eq!(place(&request(2), &[a.clone(), b.clone(), c.clone()]), on("b"));
    assert_eq!(place(&request(2), &[c, b, a]), on("b"));
}

#[test]
fn a_provider_that_failed_this_job_comes_last_but_not_never() {
    let request = Request { failures: BTreeMap::from([("a".to_owned(), 1)]), ..request(2) };
    assert_eq!(place(&request, &[candidate("a", 8), candidate("b", 2)]), on("b"));
    assert_eq!(place(&request, &[candidate("a", 8)]), on("a"));
}

#[test]
fn each_score_counts_where_those_before_it_do_not_differ() {
    let (mut a, b) = (priced("a", 2, None), priced("b", 8, None));
    let mut request = request(2);
    let chosen = |request: &Request, a: &Candidate, b: &Candidate| {
        let forth = place(request, &[a.clone(), b.clone()]);
        assert_eq!(forth, place(request, &[b.clone(), a.clone()]));
        forth
    };
    assert_eq!(chosen(&request, &a, &b), on("b"), "more free");
    a.devices.get_mut("cpu").unwrap().price = Some(100);
    assert_eq!(chosen(&request, &a, &b), on("a"), "names a price");
    request.dataset = Arc::new(BTreeSet::from(["b".to_owned()]));
    assert_eq!(chosen(&request, &a, &b), on("b"), "has the dataset");
    request.checkpoints.insert("a".into());
    assert_eq!(chosen(&request, &a, &b), on("a"), "has the checkpoints");
    a.reliability = Some(980);
    assert_eq!(chosen(&request, &a, &b), on("a"), "nearly as good as one without a record");
    a.reliability = Some(900);
    assert_eq!(chosen(&request, &a, &b), on("b"), "loses intervals");
    request.failures.insert("b".into(), 1);
    assert_eq!(chosen(&request, &a, &b), on("a"), "the other has failed this very job");
}

#[test]
fn who_fits_is_asked_without_regard_to_room() {
    let all =
        [candidate("west", 0), candidate("east", 1), Candidate { images: vec![], ..candidate("up", 8) }];
    let names: Vec<&str> = fits(&request(4), &all).iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["east", "west"]);
}

#[test]
fn a_starting_unit_is_counted_before_the_report_sees_it() {
    let free =
        |workers, idle, assigned, pending| Device { workers, idle, assigned, pending, price: None }.free();
    assert_eq!(free(8, 8, 0, 0), 8);
    assert_eq!(free(8, 8, 6, 6), 2, "sent, not running, not in the report yet");
    assert_eq!(free(8, 2, 6, 0), 2, "running, in the report");
    assert_eq!(free(4, 8, 3, 0), 1, "the quota is below what is idle");
    assert_eq!(free(8, 1, 6, 6), 0, "never below zero");
}

#[test]
fn the_epoch_floor_travels_with_the_choice() {
    let fenced = Candidate { min_epoch: 7, ..candidate("east", 8) };
    assert_eq!(place(&request(1), &[fenced]), Placement::On { provider: "east".into(), min_epoch: 7 });
}

#[test]
fn an_owner_that_was_convicted_gets_the_job_no_more() {
    let of = |name: &str, owner: &str| Candidate { owner: owner.into(), ..candidate(name, 8) };
    let all = [of("east", "acme"), of("east-two", "acme"), of("west", "globex")];
    let request = Request { convicted: BTreeSet::from(["east".to_owned()]), ..request(2) };
    assert_eq!(place(&request, &all), on("west"));
    let Placement::NoneEligible { message } = place(&request, &all[..2]) else { panic!() };
    assert_eq!(
        message,
        "0/2 providers: 1 convicted of a fault in this job, 1 of an owner that was convicted in this job"
    );
}

#[test]
fn who_could_audit_is_of_another_owner() {
    let of = |name: &str, owner: &str| Candidate { owner: owner.into(), ..candidate(name, 0) };
    let (east, west) = (of("east", "acme"), of("west", "globex"));
    let all = [east.clone(), west.clone()];
    let ask = |allowed: &[&str], all: &[Candidate]| {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        can_be_audited(&request(2), &allowed, all, "acme")
    };
    assert_eq!(ask(&[], &all), Ok(()), "also while it has no room");
    assert_eq!(ask(&["west"], &all), Ok(()));
    let no = |allowed: &[&str], all: &[Candidate], why: &str| {
        let message = ask(allowed, all).unwrap_err();
        assert!(
            message.starts_with(&format!("0 eligible auditors of {} providers: {why};", all.len())),
            "{message}"
        );
    };
    no(&[], &[], "");
    no(&[], &all[..1], "1 of acme, who trains");
    no(&["east"], &all, "1 not in assurance.auditors, 1 of acme, who trains");
    let away = Candidate { availability: Availability::NotReady, ..west.clone() };
    no(&[], &[away], "1 not ready");
    let other = Candidate { images: vec![], ..west.clone() };
    no(&[], &[other], "1 does not allow the trainer image");
    let convicted = Request { convicted: BTreeSet::from(["west".to_owned()]), ..request(2) };
    let two = of("west-two", "globex");
    let message = can_be_audited(&convicted, &[], &[west, two], "acme").unwrap_err();
    assert!(message.contains("1 convicted of a fault in this job, 1 of an owner"), "{message}");
}

#[test]
fn a_job_goes_where_another_owner_can_audit_it() {
    let of = |name: &str, owner: &str| Candidate { owner: owner.into(), ..candidate(name, 8) };
    let audited = |by: &[&str]| Request {
        audited_by: Some(by.iter().map(ToString::to_string).collect()),
        ..request(2)
    };
    let (east, west) = (of("east", "acme"), of("west", "globex"));
    let alone = [east.clone(), of("east-two", "acme")];
    let no = |request: &Request, all: &[Candidate]| {
        assert_eq!(fits(request, all), Vec::<&Candidate>::new(), "so nobody makes way for it either");
        let Placement::NoneEligible { message } = place(request, all) else { panic!() };
        message
    };
    assert_eq!(no(&audited(&[]), &alone), "0/2 providers: 2 have nobody of another owner to audit them");
    let all = [east.clone(), west.clone()];
    assert_eq!(place(&audited(&[]), &all), on("east"));
    // Only west may audit, so west does not train.
    assert_eq!(place(&audited(&["west"]), &all), on("east"));
    assert_eq!(place(&audited(&["east"]), &all), on("west"));
    let away = Candidate { availability: Availability::NotReady, ..west };
    assert_eq!(
        no(&audited(&[]), &[east, away]),
        "0/2 providers: 1 not ready, 1 has nobody of another owner to audit it"
    );
}
