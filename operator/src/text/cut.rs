//! What a document is, and where a text is cut into pieces that become tokens by themselves. Both are functions of the text: how much
//! of it is in memory decides which cuts are made, never which tokens come out.
use super::gpt2;

/// The largest document of a tokenizer that needs it whole, or that is less than a file, in bytes. The tokenizers library takes some
/// 200 times as much memory.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// What becomes tokens in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Any byte by itself.
    Byte,
    /// What lies between two places where GPT-2's rule cuts anyway.
    Word,
    /// A whole document.
    Document,
}

/// What a document is. Nothing is dropped: the documents of a file, one after the other, are the file.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// A file that is not empty.
    #[default]
    File,
    /// A line with something in it, its newline, and the blank lines before it.
    Line,
    /// Lines up to a blank one, the blank lines after them, and those before the first of a file.
    Paragraph,
}

/// The ends of segments in the beginning of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// In bytes, ascending. Each but the last is the end of a document.
    pub ends: Vec<usize>,
    /// Whether the last is one, too.
    pub whole: bool,
}

/// Cuts the beginning of a text, `is_all` of it or more to come, that begins where an earlier cut was. Without an end, more has to be
/// read; what is too long then, [`limit`] says.
#[must_use]
pub fn cuts(text: &[u8], split: Split, unit: Unit, is_all: bool) -> Cuts {
    let mut ends = match split {
        Split::File => Vec::new(),
        Split::Line => documents(text, |blank, _| !blank),
        Split::Paragraph => documents(text, |blank, rest| blank && begins_content(rest, is_all)),
    };
    if is_all && !text.is_empty() && ends.last() != Some(&text.len()) {
        ends.push(text.len());
    }
    let inside = match (split, unit, is_all) {
        (Split::File, Unit::Byte, false) => Some(text.len()).filter(|end| *end > 0),
        (Split::File, Unit::Word, false) => gpt2::last_cut(text),
        _ => None,
    };
    match inside {
        Some(end) => Cuts { ends: vec![end], whole: false },
        None => Cuts { whole: !ends.is_empty(), ends },
    }
}

/// The most bytes in which there must be an end, for this split and unit.
#[must_use]
pub const fn limit(split: Split, unit: Unit) -> usize {
    match (split, unit) {
        (Split::File, Unit::Word) => gpt2::MAX_WORD,
        _ => MAX_DOCUMENT,
    }
}

/// The ends of documents that are known. `ends_after` is asked of each line once something was in it or in one before it: whether it
/// is blank, and what follows it.
fn documents(text: &[u8], ends_after: impl Fn(bool, &[u8]) -> bool) -> Vec<usize> {
    let (mut ends, mut start, mut content) = (Vec::new(), 0, false);
    while let Some(length) = text[start..].iter().position(|byte| *byte == b'\n') {
        let end = start + length + 1;
        let blank = matches!(&text[start..end], b"\n" | b"\r\n");
        content |= !blank;
        if content && ends_after(blank, &text[end..]) {
            ends.push(end);
            content = false;
        }
        start = end;
    }
    ends
}

/// Whether a line begins here that is seen not to be blank.
fn begins_content(rest: &[u8], is_all: bool) -> bool {
    match rest {
        [] | [b'\n', ..] | [b'\r', b'\n', ..] => false,
        [b'\r'] => is_all,
        _ => true,
    }
}
