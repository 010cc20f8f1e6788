use proptest::prelude::*;

use super::*;

fn digest(fill: u8) -> Digest {
    Digest::of(&[fill])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn token(fill: u8, accept: Accept) -> Option<Token> {
    Some(Token { hash: digest(fill), expires: at(900), accept })
}

fn claim(token: u8, key: u8, second: i64) -> Claim {
    Claim { token: digest(token), key: digest(key), at: at(second) }
}

fn pinned(key: u8) -> Pinned {
    Pinned { key: digest(key), until: None }
}

fn until(key: u8, second: i64) -> Pinned {
    Pinned { key: digest(key), until: Some(at(second)) }
}

fn facts() -> Facts<'static> {
    Facts {
        name: "east",
        scheduling: Scheduling::Enabled,
        token: None,
        claims: vec![],
        keys: vec![],
        before: Before::default(),
        now: at(100),
    }
}

fn reasons(facts: &Facts<'_>) -> (&'static str, &'static str) {
    let said = admission(facts);
    assert_eq!(said.accepted.holds, said.accepted.reason == "KeyPinned");
    assert_eq!(said.joined.holds, said.joined.reason == "KeyPresented");
    (said.joined.reason, said.accepted.reason)
}

#[test]
fn the_story_of_a_manual_join() {
    let mut now = facts();
    assert_eq!(reasons(&now), ("NoToken", "KeyNotPinned"));
    now.token = token(1, Accept::Manual);
    assert_eq!(reasons(&now), ("TokenIssued", "KeyNotPinned"));
    assert_eq!(admission(&now).holds_until, Some(at(900)));
    let late = Facts { now: at(900), ..now.clone() };
    assert_eq!(reasons(&late), ("TokenExpired", "KeyNotPinned"));
    assert_eq!(admission(&late).holds_until, None);

    now.claims = vec![claim(1, 7, 50)];
    let said = admission(&now);
    assert_eq!(reasons(&now), ("KeyPresented", "WaitingForAdmin"));
    assert_eq!((said.presented, said.pin), (Some(digest(7)), None), "the admin pins");
    let command = format!("muster provider accept east --fingerprint {}", digest(7));
    assert!(said.accepted.message.contains(&command), "{}", said.accepted.message);

    now.keys = vec![pinned(7)];
    assert_eq!(reasons(&now), ("KeyPresented", "KeyPinned"));
    // Token and claim are forgotten one day; the key is not.
    let old = Before { presented: Some(digest(7)), accepted: Was::Accepted, pinned_for: None };
    let years_later = Facts { token: None, claims: vec![], before: old.clone(), ..now.clone() };
    assert_eq!(reasons(&years_later), ("KeyPresented", "KeyPinned"));
    let taken_out = Facts { keys: vec![], before: old, ..now };
    assert_eq!(reasons(&taken_out), ("KeyPresented", "KeyNotPinned"));
}

#[test]
fn what_accepted_says() {
    let joined = || Facts { claims: vec![claim(1, 7, 50)], ..facts() };
    let was = Before { presented: Some(digest(7)), accepted: Was::Accepted, pinned_for: None };
    for (what, facts, expected) in [
        ("pinned before anyone came", Facts { keys: vec![pinned(7)], ..facts() }, "KeyPinned"),
        ("pinned, ends later", Facts { keys: vec![until(7, 101)], ..joined() }, "KeyPinned"),
        ("pinned, has ended", Facts { keys: vec![until(7, 100)], ..joined() }, "KeyExpired"),
        ("nobody came, and it is over", Facts { keys: vec![until(8, 1)], ..facts() }, "KeyExpired"),
        ("another key is pinned", Facts { keys: vec![pinned(8)], ..joined() }, "KeyPinned"),
        ("another key has ended", Facts { keys: vec![until(8, 1)], ..joined() }, "WaitingForAdmin"),
        ("taken out", Facts { before: was.clone(), ..joined() }, "KeyNotPinned"),
        (
            "a new key after the old one",
            Facts { claims: vec![claim(1, 9, 60)], before: was, ..facts() },
            "WaitingForAdmin",
        ),
        ("revoked", Facts { scheduling: Scheduling::Revoked, keys: vec![pinned(7)], ..joined() }, "Revoked"),
    ] {
        assert_eq!(admission(&facts).accepted.reason, expected, "{what}");
    }
}

#[test]
fn a_rotation_does_not_disturb_the_agent_that_works() {
    let rotating = Facts {
        token: token(2, Accept::Manual),
        claims: vec![claim(1, 7, 10), claim(2, 8, 60)],
        keys: vec![pinned(7)],
        ..facts()
    };
    let said = admission(&rotating);
    assert_eq!((said.presented, said.accepted.reason), (Some(digest(8)), "KeyPinned"));
    let message = &said.accepted.message;
    assert!(
        message.contains(&digest(7).to_string()) && message.contains(&digest(8).to_string()),
        "{message}"
    );
    assert!(!message.contains("--replace"), "{message}");
    let full = Facts { keys: vec![pinned(7), pinned(5), pinned(6)], ..rotating };
    assert!(admission(&full).accepted.message.contains("--replace"), "there is no room for another");
}

#[test]
fn the_hub_pins_what_was_promised_and_once() {
    let promised = Facts { token: token(1, Accept::Auto), claims: vec![claim(1, 7, 50)], ..facts() };
    let pin = |facts: &Facts<'_>| admission(facts).pin;
    assert_eq!(pin(&promised), Some(Pin { token: digest(1), key: Some(digest(7)) }));

    let noted = Before { pinned_for: Some(digest(1)), ..Before::default() };
    let removed = Facts { before: noted.clone(), ..promised.clone() };
    assert_eq!(pin(&removed), None, "the admin took it out again");
    assert_eq!(admission(&removed).accepted.reason, "KeyNotPinned");

    let by_hand = Facts { keys: vec![pinned(7)], ..promised.clone() };
    assert_eq!(
        pin(&by_hand),
        Some(Pin { token: digest(1), key: None }),
        "or it would come back when taken out"
    );
    assert_eq!(pin(&Facts { before: noted, ..by_hand }), None);

    for (why, facts) in [
        ("revoked", Facts { scheduling: Scheduling::Revoked, ..promised.clone() }),
        ("leaving", Facts { scheduling: Scheduling::Deleting, ..promised.clone() }),
        ("a newer token", Facts { token: token(2, Accept::Auto), ..promised.clone() }),
        ("no promise", Facts { token: token(1, Accept::Manual), ..promised.clone() }),
        ("no token any more", Facts { token: None, ..promised.clone() }),
        ("too late", Facts { claims: vec![claim(1, 7, 901)], ..promised.clone() }),
        ("no room", Facts { keys: vec![pinned(1), pinned(2), pinned(3)], ..promised }),
    ] {
        assert_eq!(pin(&facts), None, "{why}");
    }
}

fn some_facts() -> impl Strategy<Value = Facts<'static>> {
    let scheduling = prop_oneof![
        Just(Scheduling::Enabled),
        Just(Scheduling::Cordoned),
        Just(Scheduling::Revoked),
        Just(Scheduling::Deleting)
    ];
    let accept = prop_oneof![Just(Accept::Manual), Just(Accept::Auto)];
    let token = prop::option::of((0..4u8, 0..200i64, accept).prop_map(|(hash, expires, accept)| Token {
        hash: digest(hash),
        expires: at(expires),
        accept,
    }));
    let claims = prop::collection::vec((0..4u8, 0..4u8, 0..200i64), 0..4);
    let keys = prop::collection::btree_map(0..4u8, prop::option::of(0..200i64), 0..4);
    let before = (prop::option::of(0..4u8), any::<bool>(), prop::option::of(0..4u8));
    (scheduling, token, claims, keys, before).prop_map(|(scheduling, token, claims, keys, before)| Facts {
        scheduling,
        token,
        claims: claims.into_iter().map(|(token, key, second)| claim(token, key, second)).collect(),
        keys: keys
            .into_iter()
            .map(|(key, second)| Pinned { key: digest(key), until: second.map(at) })
            .collect(),
        before: Before {
            presented: before.0.map(digest),
            accepted: if before.1 { Was::Accepted } else { Was::Never },
            pinned_for: before.2.map(digest),
        },
        ..facts()
    })
}

proptest! {
    #[test]
    fn whatever_is_seen(facts in some_facts()) {
        let said = admission(&facts);
        let valid = facts.keys.iter().any(|pinned| pinned.until.is_none_or(|until| until > facts.now));
        prop_assert_eq!(said.accepted.holds, valid && facts.scheduling != Scheduling::Revoked);
        prop_assert!(said.accepted.message.len() <= 1000 && said.joined.message.len() <= 1000);
        prop_assert_eq!(said.joined.holds, said.presented.is_some());
        prop_assert_eq!(said.obstacle().is_none(), said.accepted.holds);
        prop_assert!(said.holds_until.is_none_or(|time| time > facts.now));
        if let Some(pin) = &said.pin {
            prop_assert!(!matches!(facts.scheduling, Scheduling::Revoked | Scheduling::Deleting));
            let token = facts.token.as_ref().unwrap();
            prop_assert_eq!((token.accept, token.hash), (Accept::Auto, pin.token));
            prop_assert!(pin.key.is_none() || facts.keys.len() < MAX_KEYS);
            // It is done with one write: after it there is nothing left to write, whatever the admin does to the keys.
            let mut after = facts.clone();
            after.before.pinned_for = Some(pin.token);
            prop_assert_eq!(admission(&after).pin, None);
            after.keys.clear();
            prop_assert_eq!(admission(&after).pin, None);
        }
    }
}
