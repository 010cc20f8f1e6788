//! Readers of text, and of what says how it becomes tokens.
use std::sync::OnceLock;

use muster::text::Tokenizer;
use muster::text::cut::{Cuts, Split, Unit, cuts};
use muster::text::prepare::State;
use muster_trainer::inference::Vocabulary;

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "text", run: text, seeds: text_seeds },
        Target { name: "tokenizer-json", run: tokenizer_json, seeds: tokenizer_seeds },
        Target { name: "prepare-state", run: state, seeds: state_seeds },
    ]
}

const SPLITS: [Split; 3] = [Split::File, Split::Line, Split::Paragraph];

/// However much of a text is there when it is cut, the documents are the same; and where GPT-2's rule lets a text be cut, its tokens
/// are those of the whole, and lead back to it.
fn text(data: &[u8]) {
    for split in SPLITS {
        let whole = documents(data, split, data.len());
        assert_eq!(whole.last().copied().unwrap_or(0), data.len());
        for step in [1, 5] {
            assert_eq!(documents(data, split, step), whole);
        }
    }
    let Some(gpt2) = gpt2() else { return };
    let mut tokens = Vec::new();
    let Err(error) = gpt2.encode(data, &mut tokens) else {
        let mut decoder = gpt2.decoder(&[]);
        let mut again: String = tokens.iter().map(|token| decoder.push(*token)).collect();
        again += &decoder.finish();
        assert_eq!(again.as_bytes(), data);
        if let Cuts { ends, whole: false } = cuts(data, Split::File, Unit::Word, false)
            && let [end] = ends[..]
        {
            let (left, right) = data.split_at(end);
            let mut parts = Vec::new();
            assert!(gpt2.encode(left, &mut parts).is_ok() && gpt2.encode(right, &mut parts).is_ok());
            assert_eq!(parts, tokens);
        }
        return;
    };
    assert!(error.at <= data.len() as u64 && std::str::from_utf8(data).is_err());
}

/// The ends of all documents, with so many bytes more each time that there is no end.
fn documents(data: &[u8], split: Split, step: usize) -> Vec<usize> {
    let (mut all, mut start, mut end) = (Vec::new(), 0, 0);
    while start < data.len() {
        end = (end + step.max(1)).min(data.len());
        let found = cuts(&data[start..end], split, Unit::Document, end == data.len());
        all.extend(found.ends.iter().map(|end| start + end));
        start = all.last().copied().unwrap_or(0);
    }
    all
}

fn gpt2() -> Option<&'static Tokenizer> {
    static GPT2: OnceLock<Option<Tokenizer>> = OnceLock::new();
    GPT2.get_or_init(|| Tokenizer::gpt2().ok()).as_ref()
}

fn text_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "In the beginning\n\nwas the word's end, 42 of them.\r\n \r\n\t--\u{a0}\u{e9}\u{4e2d}\u{6587}\u{1f980} it'll",
        "a  b\n\n\nc'd \"e\",<|endoftext|>",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// What is accepted gives numbers below its vocabulary, the same each time.
fn tokenizer_json(data: &[u8]) {
    let (Ok(one), Ok(two)) = (Tokenizer::parse(data.to_vec()), Tokenizer::parse(data.to_vec())) else {
        return;
    };
    for text in ["a word", " b \u{e9}\u{4e2d}[X] ab\n", ""] {
        let (first, second) = (Vocabulary::encode(&one, text), Vocabulary::encode(&two, text));
        assert_eq!(first, second);
        let Ok(tokens) = first else { continue };
        assert!(tokens.iter().all(|token| (*token as usize) < one.size()));
        let mut decoder = one.decoder(&tokens);
        tokens.iter().for_each(|token| drop(decoder.push(*token)));
        decoder.finish();
    }
}

fn tokenizer_seeds() -> Vec<Vec<u8>> {
    let around = |model: &str, pre: &str, decoder: &str| {
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{{"id":5,"content":"[X]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}],"normalizer":{{"type":"NFC"}},"pre_tokenizer":{pre},"post_processor":null,"decoder":{decoder},"model":{model}}}"#
        )
        .into_bytes()
    };
    let words = r#"{"type":"WordLevel","vocab":{"a":0,"b":1,"word":2,"[U]":3},"unk_token":"[U]"}"#;
    let pairs = r#"{"type":"BPE","dropout":null,"unk_token":"[U]","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"[U]":0,"a":1,"b":2,"ab":3,"\u2581":4},"merges":["a b"]}"#;
    let unigram = r#"{"type":"Unigram","unk_id":0,"vocab":[["[U]",0.0],["a",-1.0],["b",-2.0],["ab",-0.5]],"byte_fallback":false}"#;
    let pieces = r###"{"type":"WordPiece","unk_token":"[U]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[U]":0,"a":1,"##b":2,"word":3}}"###;
    let split = r#"{"type":"Split","pattern":{"Regex":"\\s+"},"behavior":"Isolated","invert":false}"#;
    let metaspace = r#"{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true}"#;
    vec![
        around(words, r#"{"type":"Whitespace"}"#, "null"),
        around(pairs, metaspace, metaspace),
        around(unigram, split, "null"),
        around(
            pieces,
            r#"{"type":"BertPreTokenizer"}"#,
            r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###,
        ),
    ]
}

fn state(data: &[u8]) {
    if let Ok(state) = State::parse(data) {
        assert_eq!(state.to_bytes().ok().as_deref(), Some(data));
        assert_eq!(
            State::new(&Tokenizer::bytes(), Split::File, &state.place(), &state.mark()).mark(),
            state.mark()
        );
    }
}

fn state_seeds() -> Vec<Vec<u8>> {
    let zeros = format!("sha256:{}", "0".repeat(64));
    let text = format!(
        r#"{{"digest":"{zeros}","endOfText":50256,"format":"muster.prepare/1","inputs":3,"offset":17,"root":"{zeros}","split":"file","tokenizer":"gpt2","tokens":12}}"#
    );
    vec![text.clone().into_bytes(), text.replace("50256", "null").into_bytes()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        tokenizer_seeds().into_iter().for_each(|seed| drop(Tokenizer::parse(seed).unwrap()));
        state_seeds().iter().for_each(|seed| drop(State::parse(seed).unwrap()));
    }
}
