use super::*;

fn record(step: u64) -> StepRecord {
    StepRecord {
        eval_loss: None,
        grad_norm: Bits::of(1.0),
        learning_rate: Bits::of(0.0006),
        loss: Bits::of(10.5 - step as f32),
        step,
    }
}

fn interval(n: u64) -> Records {
    Records::new(41, (41..41 + n).map(record).collect()).unwrap()
}

/// The examples of docs/spec/formats.md, computed by another implementation (Python's hashlib and struct).
#[test]
fn examples_of_the_specification() {
    let first = StepRecord {
        eval_loss: Some(Bits::of(2.5)),
        grad_norm: Bits::of(1.0),
        learning_rate: Bits::of(0.5),
        loss: Bits::of(10.5),
        step: 1,
    };
    let second = StepRecord { eval_loss: None, loss: Bits::of(-0.0), step: 2, ..first };
    let bytes = br#"{"evalLoss":"40200000","gradNorm":"3f800000","learningRate":"3f000000","loss":"41280000","step":1}"#;
    assert_eq!(first.to_bytes().unwrap(), bytes);
    let records = Records::new(1, vec![first, second]).unwrap();
    let root = records.root();
    assert_eq!(root.to_hex(), EXAMPLE_ROOT);
    let of = Interval { job: Digest::of(b"job"), island: 1, epoch: 2, interval: 3 };
    assert_eq!(record_seal(&of, &root, &[7; 32]).to_hex(), EXAMPLE_SEAL);
    assert_eq!(failed_state(&Digest::of(b"state"), 4).to_hex(), EXAMPLE_FAILED);
    assert_eq!(ended_state(&Digest::of(b"state"), 4).to_hex(), EXAMPLE_ENDED);
}

const EXAMPLE_ROOT: &str = "2c42e5c3ffa4363ecc9968977044b3dbf8a01a740f1ec4cd180f576b066eef29";
const EXAMPLE_SEAL: &str = "f3eb523bc94f20478b8cf0bdc2cc16a7ded5598a519694e689007946360f6f6f";
const EXAMPLE_FAILED: &str = "fa04ea5dd05de224079ece6792076702c390681286b4e946265861cf70dd7bec";
const EXAMPLE_ENDED: &str = "30fe26183f174a058e2013db0f69b52ea8fa1456d082541011bc776240174f6a";

#[test]
fn lists_round_trip_and_are_strict() {
    for n in [0, 1, 2, 20] {
        let records = interval(n);
        assert_eq!(Records::parse(41, &records.to_bytes().unwrap()).unwrap(), records);
    }
    assert_eq!(interval(0).root(), Digest::of(b""));
    let good = String::from_utf8(interval(3).to_bytes().unwrap()).unwrap();
    let lines: Vec<_> = good.lines().collect();
    let parse = |text: &str| Records::parse(41, text.as_bytes());
    let [a, b, c] = lines[..] else { panic!("three lines") };
    assert!(matches!(parse(good.trim_end()), Err(Error::Line(2))));
    assert!(matches!(parse(&format!("{a}\n\n{b}\n")), Err(Error::Line(1))));
    assert!(matches!(parse(&format!("{a}\n{c}\n")), Err(Error::Step { at: 1, got: 43, want: 42 })));
    assert!(matches!(parse(&format!("{b}\n")), Err(Error::Step { at: 0, got: 42, want: 41 })));
    assert!(matches!(parse(&format!("{a}\n{a}\n")), Err(Error::Step { at: 1, .. })));
    assert!(matches!(parse(&format!("{a}\r\n")), Err(Error::Malformed { at: 0, .. })));
    assert!(matches!(parse(&format!("{a}\n{}\n", " ".repeat(200))), Err(Error::TooLong(1))));
    assert!(matches!(Records::new(1, vec![record(1); MAX_RECORDS + 1]), Err(Error::TooMany)));
    assert!(matches!(Records::new(u64::MAX, vec![record(1)]), Err(Error::Step { .. })));
}

#[test]
fn a_record_has_one_spelling() {
    let good = String::from_utf8(record(7).to_bytes().unwrap()).unwrap();
    assert_eq!(StepRecord::parse(good.as_bytes()).unwrap(), record(7));
    for (from, to) in [
        ("\"step\":7", "\"step\": 7"),
        ("\"step\":7", "\"step\":\"7\""),
        ("\"step\":7", "\"step\":7,\"x\":1"),
        ("3f800000", "3F800000"),
        ("3f800000", "3f80000"),
        ("3f800000", "+f800000"),
        ("\"3f800000\"", "1"),
        ("{\"gradNorm\"", "{\"evalLoss\":null,\"gradNorm\""),
        ("\"gradNorm\":\"3f800000\",", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(matches!(StepRecord::parse(bad.as_bytes()), Err(Error::Malformed { .. })), "{bad}");
    }
}

#[test]
fn only_finite_numbers_and_real_steps_have_records() {
    for bits in ["7f800000", "ff800000", "7fc00000", "7f800001"] {
        let bad = String::from_utf8(record(7).to_bytes().unwrap()).unwrap().replace("3f800000", bits);
        let error = StepRecord::parse(bad.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("step 7: gradNorm") && error.contains(bits), "{error}");
    }
    let nan = StepRecord { eval_loss: Some(Bits::of(f32::NAN)), ..record(3) };
    assert!(matches!(nan.to_bytes(), Err(Error::NotFinite { step: 3, field: "evalLoss", .. })));
    for step in [0, 1 << 53, u64::MAX] {
        assert!(matches!(StepRecord { step, ..record(1) }.to_bytes(), Err(Error::Number(_))), "{step}");
    }
    let last = StepRecord { step: (1 << 53) - 1, eval_loss: Some(Bits::of(1.0)), ..record(1) };
    assert!(last.to_bytes().unwrap().len() == 113, "the longest");
}

#[test]
fn one_record_proves_itself() {
    let records = interval(20);
    let root = records.root();
    for (i, record) in records.as_slice().iter().enumerate() {
        let path = records.prove(i).unwrap();
        assert!(verify_record(&root, i as u64, 20, record, &path));
        assert!(!verify_record(&root, i as u64 + 1, 20, record, &path));
        let other = StepRecord { loss: Bits::of(0.25), ..*record };
        assert!(!verify_record(&root, i as u64, 20, &other, &path));
    }
    assert_eq!(records.prove(20), None);
    let nan = StepRecord { loss: Bits::of(f32::NAN), ..record(41) };
    assert!(!verify_record(&root, 0, 20, &nan, &[]));
}

#[test]
fn each_input_of_a_seal_counts() {
    let of = Interval { job: Digest::of(b"a"), island: 1, epoch: 2, interval: 3 };
    let root = interval(2).root();
    let all = [
        record_seal(&of, &root, &[0; 32]),
        record_seal(&of, &root, &[1; 32]),
        record_seal(&of, &interval(3).root(), &[0; 32]),
        record_seal(&Interval { job: Digest::of(b"b"), ..of }, &root, &[0; 32]),
        record_seal(&Interval { island: 2, ..of }, &root, &[0; 32]),
        record_seal(&Interval { epoch: 3, ..of }, &root, &[0; 32]),
        record_seal(&Interval { interval: 4, ..of }, &root, &[0; 32]),
        record_seal(&Interval { island: 2, epoch: 1, ..of }, &root, &[0; 32]),
        ended_state(&root, 1),
        failed_state(&root, 1),
        failed_state(&root, 2),
        failed_state(&of.job, 1),
    ];
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
}
