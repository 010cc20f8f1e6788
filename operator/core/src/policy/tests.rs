use proptest::prelude::*;

use super::*;

const IMAGE: &str = "muster-trainer@sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn with(offer: &str, more: &str) -> Result<ProviderPolicy, Error> {
    ProviderPolicy::parse(&format!("images: ['{IMAGE}']\noffer: {{workers: 8{offer}}}\n{more}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_short_file_lends_always() {
    let policy = with("", "").unwrap();
    assert_eq!((policy.workers(), policy.images(), policy.is_stopped()), (8, &[IMAGE.to_owned()][..], false));
    assert_eq!(policy.closed(at("2026-11-22T03:00:00Z")), None);
    assert_eq!(policy.overrun(at("2020-01-01T00:00:00Z"), at("2026-11-22T03:00:00Z")), None);
    assert_eq!(policy, ProviderPolicy::simple(vec![IMAGE.to_owned()], 8).unwrap());
    assert_eq!(policy.image_digests(), [&IMAGE[15..]]);
}

#[test]
fn nights_reach_into_the_next_morning() {
    // 2026-11-23 is a Monday.
    let window = ", calendar: [{days: [Mon, Sun], from: '18:00', to: '08:00', timezone: '+01:00'}]";
    let policy = with(window, "").unwrap();
    for (open, time) in [
        (false, "2026-11-23T16:59:59Z"),
        (true, "2026-11-23T17:00:00Z"),
        (true, "2026-11-24T06:59:59Z"),
        (false, "2026-11-24T07:00:00Z"),
        (false, "2026-11-24T17:00:00Z"),
        (true, "2026-11-22T17:00:00Z"),
        (true, "2026-11-23T06:00:00Z"),
    ] {
        assert_eq!(policy.closed(at(time)).is_none(), open, "{time}");
    }
    let why = policy.closed(at("2026-11-24T07:00:00Z")).unwrap();
    assert!(why.contains("2026-11-29T17:00:00Z"), "{why}");
}

#[test]
fn a_whole_day_and_an_end_at_midnight() {
    let policy = with(", calendar: [{days: [Sat], from: '00:00', to: '24:00'}]", "").unwrap();
    assert!(policy.closed(at("2026-11-28T23:59:59Z")).is_none());
    assert!(policy.closed(at("2026-11-29T00:00:00Z")).is_some());
    let same = with(", calendar: [{days: [Sat], from: '00:00', to: '00:00', timezone: UTC}]", "").unwrap();
    assert!(same.closed(at("2026-11-28T23:59:59Z")).is_none());
}

#[test]
fn stop_and_the_time_limit() {
    let policy = with("", "stop: true\nmaxRuntimeSeconds: 60\n").unwrap();
    assert!(policy.is_stopped() && policy.closed(at("2026-11-22T03:00:00Z")).unwrap().contains("stopped"));
    let start = at("2026-11-22T03:00:00Z");
    assert_eq!(policy.overrun(start, at("2026-11-22T03:00:59Z")), None);
    assert!(policy.overrun(start, at("2026-11-22T03:01:00Z")).unwrap().contains("maxRuntimeSeconds"));
}

#[test]
fn a_price_is_named_or_not() {
    assert_eq!(with(", price: 120", "").unwrap().price(), Some(120));
    assert_eq!(with(", price: 0", "").unwrap().price(), Some(0), "for nothing is a price, too");
    assert_eq!(with("", "").unwrap().price(), None);
}

#[test]
fn mistakes_name_the_field() {
    let cases = [
        (with("", "teams: [a]\n"), "teams"),
        (with(", until: never", ""), "until"),
        (with("", "maxRuntimeSeconds: 0\n"), "maxRuntimeSeconds"),
        (with(", calendar: []", ""), "offer.calendar"),
        (with(", calendar: [{days: [], from: '18:00', to: '08:00'}]", ""), "offer.calendar[0].days"),
        (with(", calendar: [{days: [Monday], from: '18:00', to: '08:00'}]", ""), "Monday"),
        (with(", calendar: [{days: [Mon], from: '18', to: '08:00'}]", ""), "offer.calendar[0].from"),
        (with(", calendar: [{days: [Mon], from: '24:00', to: '08:00'}]", ""), "offer.calendar[0].from"),
        (with(", calendar: [{days: [Mon], from: '18:00', to: '24:01'}]", ""), "offer.calendar[0].to"),
        (
            with(", calendar: [{days: [Mon], from: '18:00', to: '08:00', timezone: Europe/Oslo}]", ""),
            "offer.calendar[0].timezone",
        ),
        (
            ProviderPolicy::parse(&format!("images: ['{IMAGE}', 'x:latest']\noffer: {{workers: 1}}")),
            "images[1]",
        ),
        (ProviderPolicy::parse("images: []\noffer: {workers: 1}"), "images"),
        (with("", "kueue: {queueName: Lent}"), "kueue.queueName"),
        (with("", "kueue: {}"), "queueName"),
        (with(", observe: true", ""), "offer.observe"),
        (with(", price: -1", ""), "offer.price"),
        (with(", price: 9007199254740992", ""), "offer.price"),
        (with(", price: cheap", ""), "price"),
        (with("", "tenants: []"), "tenants"),
        (with("", "tenants: [team-a, Team]"), "tenants[1]"),
        (with(", worker: {cpu: lots, memory: 1Gi}", ""), "offer.worker"),
        (ProviderPolicy::parse(&format!("images: ['{IMAGE}']\noffer: {{workers: 100001}}")), "offer.workers"),
        (ProviderPolicy::parse(&format!("images: ['{IMAGE}']\n")), "offer"),
        (ProviderPolicy::parse(&" ".repeat(MAX_BYTES + 1)), "longer"),
    ];
    for (result, want) in cases {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(want), "{want}: {text}");
    }
}

/// One window as its text, and the minutes of a local day at which it begins and ends.
fn window() -> impl Strategy<Value = (usize, i64, i64, i64)> {
    (0..7usize, 0..1440i64, 0..=1440i64, -14 * 60..=14 * 60i64)
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn text_of((day, from, to, offset): (usize, i64, i64, i64)) -> String {
    let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let sign = if offset < 0 { '-' } else { '+' };
    format!(
        "{{days: [{}], from: '{}', to: '{}', timezone: '{sign}{}'}}",
        DAYS[day],
        clock(from),
        clock(to),
        clock(offset.abs())
    )
}

/// The definition, minute by minute from Monday 2026-11-23 00:00 UTC on.
fn open_at(minute: i64, (day, from, to, offset): (usize, i64, i64, i64)) -> bool {
    let length = if to > from { to - from } else { to - from + 1440 };
    let week = 7 * 1440;
    let local = (minute + offset).rem_euclid(week);
    let start = day as i64 * 1440 + from;
    [start, start - week, start + week].iter().any(|start| (*start..start + length).contains(&local))
}

proptest! {
    #[test]
    fn any_calendar_is_what_it_says(
        windows in prop::collection::vec(window(), 1..4),
        minute in 0..3 * 7 * 1440i64,
    ) {
        let texts: Vec<String> = windows.iter().map(|window| text_of(*window)).collect();
        let policy = with(&format!(", calendar: [{}]", texts.join(", ")), "").unwrap();
        let monday = at("2026-11-23T00:00:00Z").as_second();
        let time = |minute: i64| Timestamp::from_second(monday + minute * 60).unwrap();
        let open = |minute: i64| windows.iter().any(|window| open_at(minute, *window));
        prop_assert_eq!(policy.closed(time(minute)).is_none(), open(minute));
        // The next opening is open, and nothing before it is.
        let calendar = policy.calendar.as_ref().unwrap();
        let next = calendar.next_opening(time(minute)).unwrap();
        let wait = (next.as_second() - time(minute).as_second()) / 60;
        prop_assert!(open(minute + wait));
        prop_assert!((0..wait).all(|minutes| !open(minute + minutes)));
    }

    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,200}", tail in "[a-z:{}\\[\\], '\"\n-]{0,80}") {
        let _ = ProviderPolicy::parse(&text);
        let _ = with("", &tail);
        let _ = with(&tail, "");
    }

    #[test]
    fn no_time_is_too_strange(second in -300_000_000_000i64..250_000_000_000i64) {
        let policy = with(", calendar: [{days: [Mon], from: '18:00', to: '08:00'}]", "maxRuntimeSeconds: 5").unwrap();
        let now = Timestamp::from_second(second).unwrap();
        let _ = (policy.closed(now), policy.overrun(Timestamp::UNIX_EPOCH, now), policy.overrun(now, Timestamp::UNIX_EPOCH));
    }
}

#[test]
fn logs_and_the_way_to_the_store() {
    let policy = with("", "").unwrap();
    assert_eq!((policy.logs(), policy.is_direct_store()), (Logs::Allow, false));
    let policy = with("", "logs: Refuse\ndirectStore: true\n").unwrap();
    assert_eq!((policy.logs(), policy.is_direct_store()), (Logs::Refuse, true));
    assert!(with("", "logs: Never\n").unwrap_err().to_string().contains("Never"));
}
