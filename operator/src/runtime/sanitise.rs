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

/// A stream of text for a terminal, piece by piece: its lines stay, what would control the terminal is dropped. Bytes that are no
/// UTF-8 become replacement characters; a character that is cut by the end of a piece waits for the next.
#[derive(Debug, Default)]
pub struct Terminal {
    cut: Vec<u8>,
}

impl Terminal {
    /// What may be shown now.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.cut.extend_from_slice(piece);
        let whole = self.cut.len() - cut_character(&self.cut);
        let rest = self.cut.split_off(whole);
        let bytes = std::mem::replace(&mut self.cut, rest);
        visible(&String::from_utf8_lossy(&bytes))
    }

    /// What is left at the end.
    pub fn end(&mut self) -> String {
        visible(&String::from_utf8_lossy(&std::mem::take(&mut self.cut)))
    }
}

/// How many bytes at the end are the beginning of a character.
fn cut_character(bytes: &[u8]) -> usize {
    let end = &bytes[bytes.len().saturating_sub(4)..];
    // The first of the four may be in the middle of a character: then only what follows counts.
    let cut_from = |from: usize| match std::str::from_utf8(&end[from..]) {
        Err(error) if error.error_len().is_none() => Some(end.len() - from - error.valid_up_to()),
        _ => None,
    };
    (0..end.len()).find_map(cut_from).unwrap_or(0)
}

fn visible(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || c == '\t' || !is_invisible(c)).collect()
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
    use super::{Terminal, line};

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

    #[test]
    fn a_stream_keeps_its_lines_and_loses_its_escapes() {
        let text = "one\ttwo\r\n\x1b]0;title\x07\u{202E}äöü€😀\n".as_bytes();
        for size in 1..text.len() {
            let mut terminal = Terminal::default();
            let mut shown: String = text.chunks(size).map(|piece| terminal.push(piece)).collect();
            shown += &terminal.end();
            assert_eq!(shown, "one\ttwo\n]0;titleäöü€😀\n", "{size}");
        }
        let mut terminal = Terminal::default();
        assert_eq!(terminal.push(b"a\xffb\xe2\x82") + &terminal.end(), "a\u{fffd}b\u{fffd}");
    }
}
