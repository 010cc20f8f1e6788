//! Decimal strings to f64.

/// Why a decimal was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not of the form `digits[.digits][e[+-]digits]`.
    #[error("is not a decimal like \"0.1\" or \"6e-4\" (no sign, no spaces, at most 24 characters)")]
    Syntax,
    /// Beyond the f64 range.
    #[error("is too large for a 64-bit float")]
    Overflow,
}

/// Parses `digits[.digits][e[+-]digits]` without leading zeros to the nearest f64, ties to even.
///
/// The grammar is narrower than Rust's (`inf`, `.5`, `1.`, `+1` are refused) so that every
/// implementation accepts the same strings.
pub fn parse_decimal(text: &str) -> Result<f64, DecimalError> {
    if text.len() > 24 || !is_decimal(text.as_bytes()) {
        return Err(DecimalError::Syntax);
    }
    // std's f64 parser rounds correctly for every input.
    let value: f64 = text.parse().map_err(|_| DecimalError::Syntax)?;
    if value.is_finite() { Ok(value) } else { Err(DecimalError::Overflow) }
}

fn is_decimal(text: &[u8]) -> bool {
    let digits = |t: &[u8]| t.iter().take_while(|c| c.is_ascii_digit()).count();
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let n = digits(fraction);
        if n == 0 {
            return false;
        }
        rest = &fraction[n..];
    }
    if let Some((b'e' | b'E', exponent)) = rest.split_first() {
        let unsigned = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
        let n = digits(unsigned);
        if n == 0 || n > 3 {
            return false;
        }
        rest = &unsigned[n..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_grammar_and_nothing_else() {
        for (text, value) in
            [("0", 0.0), ("6e-4", 6e-4), ("0.95", 0.95), ("1.0", 1.0), ("1E+2", 100.0), ("12.5e1", 125.0)]
        {
            assert_eq!(parse_decimal(text), Ok(value), "{text}");
        }
        for text in [
            "", "-1", "+1", ".5", "1.", "01", "1e", "1e-", "1e1234", " 1", "1 ", "inf", "nan", "0x1", "1_0",
            "1,0",
        ] {
            assert_eq!(parse_decimal(text), Err(DecimalError::Syntax), "{text}");
        }
        assert_eq!(parse_decimal("1e999"), Err(DecimalError::Overflow));
        assert_eq!(parse_decimal("0.1000000000000000000000001"), Err(DecimalError::Syntax));
    }
}
