use super::*;
use serde_json::json;

fn canonical(text: &str) -> String {
    String::from_utf8(to_vec(&parse(text.as_bytes()).unwrap()).unwrap()).unwrap()
}

/// RFC 8785 section 3.2.2's example without its fractions, which this profile refuses.
#[test]
fn rfc_8785_strings_and_literals() {
    let input = r#"{
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    let want = "{\"literals\":[null,true,false],\"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
    assert_eq!(canonical(input), want);
}

/// RFC 8785 section 3.2.3: the keys in the order of their UTF-16 code units. The emoji (a surrogate pair,
/// d83d..) comes before U+FB33, in UTF-8 it would come after.
#[test]
fn rfc_8785_key_order() {
    let input = r#"{
        "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis"
    }"#;
    let want = [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ];
    let out = canonical(input);
    let at: Vec<_> = want.iter().map(|name| out.find(name).unwrap()).collect();
    assert!(at.is_sorted(), "{out}");
}

/// The integers among RFC 8785 appendix B's samples.
#[test]
fn integers_are_exact_and_bounded() {
    for n in [0, 1, -1, MAX_INTEGER, -MAX_INTEGER] {
        assert_eq!(canonical(&n.to_string()), n.to_string());
    }
    for bad in ["9007199254740992", "-9007199254740992", "18446744073709551615", "1.5", "1e2", "1.0", "-0"] {
        assert!(matches!(parse(bad.as_bytes()), Err(Error::Json(_))), "{bad}");
    }
    assert!(matches!(to_vec(&json!(0.5)), Err(Error::Number(_))));
    assert!(matches!(to_vec(&json!(1u64 << 53)), Err(Error::Number(_))));
    let message = parse(b"{\"lr\":6e-4}").unwrap_err().to_string();
    assert!(message.contains("write decimals as strings"), "{message}");
}

#[test]
fn controls_are_escaped_and_the_rest_is_not() {
    assert_eq!(
        to_vec(&json!("\u{0}\u{8}\u{c}\u{1f}\u{7f}\u{2028}")).unwrap(),
        "\"\\u0000\\b\\f\\u001f\u{7f}\u{2028}\"".as_bytes()
    );
}

#[test]
fn strict_parsing_refuses() {
    for bad in [
        "",
        "{\"a\":1,\"a\":1}",
        "{\"a\":1,\"\\u0061\":1}",
        "[{\"b\":{\"a\":1,\"a\":2}}]",
        "1 1",
        "{}x",
        "[1,]",
        "{\"a\":1,}",
        "'a'",
        "nul",
        "NaN",
        "01",
        "+1",
        "\"\\ud800\"",
        "\"\u{1}\"",
        "// c\n1",
    ] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(parse(b"\"\xff\"").is_err());
    assert!(parse(b"\xef\xbb\xbf1").is_err());
}

#[test]
fn depth_is_bounded_both_ways() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(is_canonical(nested(MAX_DEPTH).as_bytes()));
    assert!(parse(nested(MAX_DEPTH + 1).as_bytes()).is_err());
    assert!(parse(nested(100_000).as_bytes()).is_err());
    let deep = (0..=MAX_DEPTH).fold(json!(0), |inner, _| json!({ "a": inner }));
    assert!(matches!(to_vec(&deep), Err(Error::Depth)));
}

#[test]
fn only_the_canonical_spelling_is_canonical() {
    assert!(is_canonical(b"{\"a\":[1,\"\xc3\xb6\"],\"b\":null}"));
    for bad in ["{\"b\":null,\"a\":1}", "{ \"a\":1}", "{\"a\":1}\n", "\"\\u00f6\"", "\"\\/\"", "\"\\u000A\""]
    {
        assert!(parse(bad.as_bytes()).is_ok(), "{bad}");
        assert!(matches!(parse_canonical(bad.as_bytes()), Err(Error::NotCanonical)), "{bad}");
    }
}

#[test]
fn types_go_through_the_same_form() {
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Point {
        y: i32,
        x: i32,
    }
    let bytes = serialize(&Point { y: 2, x: 1 }).unwrap();
    assert_eq!(bytes, b"{\"x\":1,\"y\":2}");
    assert_eq!(deserialize_canonical::<Point>(&bytes).unwrap(), Point { y: 2, x: 1 });
    assert!(deserialize_canonical::<Point>(b"{\"x\":1,\"y\":2,\"z\":3}").is_err());
}
