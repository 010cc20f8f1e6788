//! Digests as text: this crate compares them, it does not open them.

/// `sha256:` and 64 lower-case hex digits.
pub fn digest_text(digest: &[u8; 32]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in digest {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Whether `text` is exactly of the form that [`digest_text`] writes.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let text = digest_text(&[0xab; 32]);
        assert_eq!(text, format!("sha256:{}", "ab".repeat(32)));
        assert!(is_digest(&text));
        assert!(!is_digest(&text.to_uppercase()));
        assert!(!is_digest(&text[..70]));
        assert!(!is_digest(&text[7..]));
    }
}
