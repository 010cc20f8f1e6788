use super::*;
use crate::Digest;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::note::{Algorithm, KeyName, NoteKey};

fn key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [seed; 32])
}

fn log() -> NoteKey {
    key("hub.example/log", Algorithm::Ed25519, 1)
}

fn witness(seed: u8) -> NoteKey {
    key("witness.example", Algorithm::CosignatureV1, seed)
}

fn vkey(seed: u8) -> VerifierKey {
    witness(seed).public().clone()
}

/// A checkpoint that these witnesses cosigned, at time 100 + seed.
fn cosigned(seeds: &[u8]) -> String {
    let head = Checkpoint::new("hub.example/log", 7, Digest::of(b"root")).unwrap();
    let mut signed = SignedCheckpoint::sign(head, &log()).unwrap();
    let lines: Vec<_> =
        seeds.iter().map(|seed| signed.cosign(&witness(*seed), 100 + u64::from(*seed)).unwrap()).collect();
    signed.merge(&lines, &seeds.iter().map(|seed| vkey(*seed)).collect::<Vec<_>>()).unwrap();
    signed.to_string()
}

/// The two levels of groups of the example of c2sp.org/tlog-policy.
fn two_levels() -> String {
    let mut text = format!("# a comment\n\nlog {} https://hub.example/log/\n", log().public());
    for (name, seed) in [("X1", 11), ("X2", 12), ("X3", 13)] {
        text += &format!("witness {name} {}\n", vkey(seed));
    }
    text += "  group\tX-witnesses  2 X1 X2 X3 \n";
    for (name, seed) in [("Y1", 21), ("Y2", 22), ("Y3", 23)] {
        text += &format!("witness {name} {} https://{name}.example/\n", vkey(seed));
    }
    text + "group Y-witnesses any Y1 Y2 Y3\n\t# another\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
}

#[test]
fn the_specification_s_example() {
    let policy: Policy = two_levels().parse().unwrap();
    assert_eq!((policy.logs().len(), policy.witnesses().len(), policy.groups().len()), (1, 6, 3));
    assert_eq!(policy.quorum(), Some("X-and-Y"));
    assert_eq!(policy.to_string().parse(), Ok(policy.clone()));
    for (seeds, met) in [
        (&[11, 12, 21][..], true),
        (&[11, 13, 22, 23, 99][..], true),
        (&[11, 12, 13][..], false),
        (&[11, 21, 22, 23][..], false),
        (&[][..], false),
    ] {
        assert_eq!(policy.check(cosigned(seeds).as_bytes()).is_ok(), met, "{seeds:?}");
    }
    let accepted = policy.check(cosigned(&[11, 12, 21, 99]).as_bytes()).unwrap();
    let names: Vec<_> = accepted.cosigned.iter().map(|(name, time)| (name.as_str(), *time)).collect();
    assert_eq!(names, [("X1", 111), ("X2", 112), ("Y1", 121)]);
    let Err(Error::Quorum { quorum, cosigned }) = policy.check(cosigned(&[11]).as_bytes()) else { panic!() };
    assert_eq!((quorum.as_str(), cosigned), ("X-and-Y", vec!["X1".to_owned()]));
}

#[test]
fn a_policy_may_want_nobody_or_one() {
    let none: Policy = format!("log {}\nquorum none", log().public()).parse().unwrap();
    assert!(none.quorum().is_none() && none.check(cosigned(&[]).as_bytes()).is_ok());
    assert_eq!(none.to_string().parse(), Ok(none));
    let one: Policy = format!("witness W {}\nlog {}\nquorum W\n", vkey(2), log().public()).parse().unwrap();
    assert!(one.check(cosigned(&[2]).as_bytes()).is_ok());
    assert!(one.check(cosigned(&[3]).as_bytes()).is_err());
    let nothing: Policy = "quorum none\n".parse().unwrap();
    assert!(matches!(nothing.check(cosigned(&[]).as_bytes()), Err(Error::Checkpoint(_))));
}

/// A line in a known witness's name that is not its own condemns the checkpoint; an unknown key's does not.
#[test]
fn forged_cosignatures() {
    let policy: Policy =
        format!("witness W {}\nlog {}\nquorum W\n", vkey(2), log().public()).parse().unwrap();
    let line = |seed: u8| witness(seed).signature(vec![1; 72]).to_string();
    assert!(policy.check((cosigned(&[2]) + &line(3)).as_bytes()).is_ok());
    let forged = policy.check((cosigned(&[2]) + &line(2)).as_bytes());
    assert!(matches!(forged, Err(Error::Cosignature(_))));
}

#[test]
fn faults_name_their_line() {
    let (log, w, v) = (log().public().to_string(), vkey(2).to_string(), vkey(3).to_string());
    let renamed = key("other.example", Algorithm::CosignatureV1, 2).public().to_string();
    for (text, line) in [
        ("\nlogs x\n".to_owned(), Some(2)),
        ("log\n".to_owned(), Some(1)),
        ("log nonsense\n".to_owned(), Some(1)),
        (format!("log {w}\n"), Some(1)),
        (format!("log {log}\nlog {log}\n"), Some(2)),
        (format!("log {log} url more\n"), Some(1)),
        (format!("witness A {log}\n"), Some(1)),
        (format!("witness none {w}\n"), Some(1)),
        (format!("witness A {w}\nwitness B {w}\n"), Some(2)),
        (format!("witness A {w}\nwitness B {renamed}\n"), Some(2)),
        (format!("witness A {w}\nwitness A {v}\n"), Some(2)),
        (format!("witness A {w}\ngroup G all\n"), Some(2)),
        (format!("witness A {w}\ngroup G 0 A\n"), Some(2)),
        (format!("witness A {w}\ngroup G 2 A\n"), Some(2)),
        (format!("witness A {w}\ngroup G 01 A\n"), Some(2)),
        (format!("witness A {w}\ngroup G some A\n"), Some(2)),
        (format!("witness A {w}\ngroup A any A\n"), Some(2)),
        (format!("witness A {w}\ngroup G any A A\n"), Some(2)),
        (format!("witness A {w}\ngroup G any A\ngroup H any A\n"), Some(3)),
        (format!("witness A {w}\ngroup G any B\nwitness B {v}\n"), Some(2)),
        ("group G any G\n".to_owned(), Some(1)),
        ("group G any none\n".to_owned(), Some(1)),
        (format!("quorum A\nwitness A {w}\n"), Some(1)),
        ("quorum none\nquorum none\n".to_owned(), Some(2)),
        ("quorum\n".to_owned(), Some(1)),
        ("quorum none\r\n".to_owned(), Some(1)),
        ("# \u{7f}\nquorum none\n".to_owned(), Some(1)),
        (String::new(), None),
        ("#".repeat(MAX_POLICY + 1), None),
    ] {
        let error = text.parse::<Policy>().unwrap_err();
        assert_eq!(error.line, line, "{text:?}: {error}");
    }
    let error = "\n\nquorum A\n".parse::<Policy>().unwrap_err().to_string();
    assert_eq!(error, "line 3 of the policy: the quorum is \"A\", which no line above defines");
}

#[test]
fn limits_hold() {
    let groups = |n: u32| {
        let lines: String = (0..n)
            .map(|i| format!("group g{} any {}\n", i + 1, if i == 0 { "A".into() } else { format!("g{i}") }))
            .collect();
        format!("witness A {}\n{lines}quorum g{n}\n", vkey(2)).parse::<Policy>()
    };
    let deep = groups(256).unwrap();
    assert!(deep.is_met(|name| name == "A") && !deep.is_met(|_| false));
    assert_eq!(groups(257).unwrap_err().line, Some(258));
}

fn owner(name: &str, providers: &[u8]) -> Owner {
    let providers = providers.iter().map(|seed| (format!("p{seed}"), vkey(*seed))).collect();
    Owner { name: name.to_owned(), providers }
}

#[test]
fn more_than_two_thirds_of_the_owners() {
    for (n, want) in [(1_u8, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (9, 7)] {
        let owners: Vec<_> = (0..n).map(|i| owner(&format!("o{i}"), &[10 + i, 100 + i])).collect();
        let policy = Policy::owners(&[log().public().clone()], &owners, None).unwrap();
        for cosigned in 0..=n {
            // One provider of each is enough; the second of the first owner adds nothing.
            let names: Vec<_> = (0..cosigned).map(|i| format!("provider/p{}", 10 + i)).collect();
            let met = policy
                .is_met(|name| names.iter().any(|n| n == name) || (cosigned > 0 && name == "provider/p100"));
            assert_eq!(met, usize::from(cosigned) >= want, "{cosigned} of {n}");
            assert!(!met || 3 * usize::from(cosigned) > 2 * usize::from(n));
        }
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
}

#[test]
fn the_tenant_s_witness_must_cosign_too() {
    let owners = [owner("a", &[2]), owner("b", &[3])];
    let policy = Policy::owners(&[log().public().clone()], &owners, Some(&vkey(9))).unwrap();
    assert!(policy.check(cosigned(&[2, 3, 9]).as_bytes()).is_ok());
    assert!(policy.check(cosigned(&[2, 3]).as_bytes()).is_err());
    assert!(policy.check(cosigned(&[2, 9]).as_bytes()).is_err());
}

#[test]
fn odd_owners_are_refused() {
    let logs = [log().public().clone()];
    for owners in [
        vec![],
        vec![owner("a", &[])],
        vec![owner("a", &[2]), owner("a", &[3])],
        vec![owner("a", &[2]), owner("b", &[2])],
        vec![owner("a b", &[2])],
        vec![owner("a\nquorum none\n#", &[2])],
        vec![owner("", &[2])],
    ] {
        assert!(Policy::owners(&logs, &owners, None).is_err(), "{owners:?}");
    }
    // 64 of 95 must cosign, and the log signs too: more than a note has room for.
    let many: Vec<_> = (0..95).map(|i| owner(&format!("o{i}"), &[i + 10])).collect();
    assert!(Policy::owners(&logs, &many[..94], None).is_ok());
    assert!(Policy::owners(&logs, &many, None).is_err());
    assert!(Policy::owners(&logs, &many[..94], Some(&vkey(2))).is_err());
    let mut bad = owner("a", &[2]);
    bad.providers.push(("x y".to_owned(), vkey(3)));
    assert!(Policy::owners(&logs, &[bad], None).is_err());
    assert!(Policy::owners(&logs, &[owner("a", &[2])], Some(&vkey(2))).is_err());
}
