//! Text written by others (members, tenants, pods) before a person or an object's status shows it.

/// One line of at most `max` characters: control and format characters (terminal escapes, bidirectional overrides, zero
/// width) are dropped, white space is folded to single blanks, and a cut is marked with `...`.
#[must_use]
pub fn line(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut length = 0;
    let mut blank = true; // a leading blank is dropped
    for c in text.chars() {
        let c = if c.is_whitespace() { ' ' } else { c };
        if is_invisible(c) || (c == ' ' && blank) {
            continue;
        }
        blank = c == ' ';
        if length == max {
            return ellipsis(out, max);
        }
        out.push(c);
        length += 1;
    }
    out.truncate(out.trim_end().len());
    out
}

fn ellipsis(mut out: String, max: usize) -> String {
    for _ in 0..max.min(3) {
        out.pop();
    }
    out.extend(std::iter::repeat_n('.', max.min(3)));
    out
}

/// Control characters, and the format characters that reorder, hide or colour what is around them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn escapes_and_overrides_are_dropped() {
        assert_eq!(line("\x1b[31mred\x1b[0m\u{202E}x\u{200B}y", 100), "[31mred[0mxy");
    }

    #[test]
    fn becomes_one_line() {
        assert_eq!(line("  a\n\n b\tc \r\n", 100), "a b c");
    }

    #[test]
    fn is_cut_at_characters_not_bytes() {
        assert_eq!(line("äöüäöü", 6), "äöüäöü");
        assert_eq!(line("äöüäöüä", 6), "äöü...");
        assert_eq!(line("abc", 0), "");
    }
}
