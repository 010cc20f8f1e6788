use super::cut::{Cuts, Split, Unit, cuts};
use super::*;
use muster_trainer::inference::Vocabulary;

/// xorshift64: the same texts on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// What rules about words and lines stumble over.
const PARTS: &[&str] = &[
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{85}",
    "'",
    "'s",
    "'ll",
    "'re",
    "'T",
    "a",
    "the",
    "word",
    "Ab",
    "1",
    "2026",
    "\u{b2}",
    ".",
    ",",
    "--",
    "\"",
    "$",
    "_",
    "\u{e9}",
    "e\u{301}",
    "\u{4e2d}\u{6587}",
    "\u{ff0c}",
    "\u{1f980}",
    "\u{200d}",
    "\u{0}",
    "<|endoftext|>",
];

pub fn text(random: &mut Random, parts: usize) -> String {
    (0..parts).map(|_| PARTS[random.below(PARTS.len())]).collect()
}

/// A tokenizer.json of bytes and a few pairs of them, like GPT-2's.
pub fn byte_level() -> Vec<u8> {
    let plain = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plainly = (0..=255u8).filter(plain).map(char::from);
    let others = (0..=255u8).filter(|b| !plain(b)).count();
    let letters = plainly.chain((0u32..).map(|n| char::from_u32(256 + n).unwrap()).take(others));
    let mut vocab = serde_json::Map::new();
    let pairs = ["t h", "th e", "\u{120} the", "w o"];
    let words = letters.map(String::from).chain(pairs.iter().map(|pair| pair.replace(' ', "")));
    for (id, word) in words.chain(["</s>".into()]).enumerate() {
        vocab.insert(word, id.into());
    }
    let end = vocab.len() - 1;
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    serde_json::to_vec(&serde_json::json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "added_tokens": [{"id": end, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": pairs},
    }))
    .unwrap()
}

fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    tokenizer.encode(text.as_bytes(), &mut tokens).unwrap();
    tokens
}

/// As OpenAI's and Hugging Face's programs have them.
#[test]
fn gpt2_has_the_tokens_that_are_known() {
    let gpt2 = Tokenizer::gpt2().unwrap();
    assert_eq!(tokens(&gpt2, "Hello world"), [15496, 995]);
    assert_eq!(tokens(&gpt2, "Hello, world!"), [15496, 11, 995, 0]);
    assert_eq!(tokens(&gpt2, "This is a test"), [1212, 318, 257, 1332]);
    assert_eq!(tokens(&gpt2, "I'm"), [40, 1101]);
    assert_eq!(
        tokens(&gpt2, "<|endoftext|>"),
        [27, 91, 437, 1659, 5239, 91, 29],
        "text cannot end a document"
    );
    assert_eq!(tokens(&gpt2, ""), [0u32; 0]);
    assert_eq!((gpt2.text().vocabulary(), gpt2.end()), (50_257, Some(50_256)));
    let (known, mut seen) = (gpt2.text().vocabulary(), String::new());
    let mut decoder = gpt2.decoder(&[]);
    (0..known).for_each(|token| seen += &decoder.push(token));
    assert!(seen.ends_with("<|endoftext|>"), "every number is a token");
}

/// What the module `gpt2` proves, tried.
#[test]
fn a_cut_that_is_allowed_changes_no_token() {
    let gpt2 = Tokenizer::gpt2().unwrap();
    let (mut random, mut cut) = (Random(1), 0);
    for _ in 0..400 {
        let text = text(&mut random, 12);
        let whole = tokens(&gpt2, &text);
        let mut end = text.len();
        while let Cuts { ends, whole: false } = cuts(&text.as_bytes()[..end], Split::File, Unit::Word, false)
        {
            let Some(&at) = ends.first() else { break };
            let (left, right) = text.split_at(at);
            assert_eq!([tokens(&gpt2, left), tokens(&gpt2, right)].concat(), whole, "{left:?} and {right:?}");
            (end, cut) = (at, cut + 1);
        }
    }
    assert!(cut > 500, "{cut}");
}

/// The regular expression's stack is not endless: long before it ends, a text is refused.
#[test]
fn a_word_is_bounded() {
    let gpt2 = Tokenizer::gpt2().unwrap();
    let mut out = Vec::new();
    for fill in [" ", "\n", "a", "\u{4e2d}"] {
        let longest = fill.repeat(MAX_WORD / fill.len());
        gpt2.encode(longest.as_bytes(), &mut out).unwrap();
        let error = gpt2.encode(format!("ab c{longest}x").as_bytes(), &mut out).unwrap_err();
        // A space may follow the c; a letter is one word with it.
        let at = if fill.trim().is_empty() { 4 } else { 2 };
        assert!(error.at == at && error.problem.contains("break them into lines"), "{fill:?}: {error}");
    }
    let fine = "ab ".repeat(MAX_WORD);
    gpt2.encode(fine.as_bytes(), &mut out).unwrap();
}

#[test]
fn what_is_not_utf8_is_named_by_its_byte() {
    let mut out = Vec::new();
    for tokenizer in [Tokenizer::gpt2().unwrap(), Tokenizer::parse(byte_level()).unwrap()] {
        let error = tokenizer.encode(b"ab\xff", &mut out).unwrap_err();
        assert!(error.at == 2 && error.problem.contains("iconv"), "{error}");
    }
    Tokenizer::bytes().encode(b"ab\xff", &mut out).unwrap();
    assert_eq!(out, [97, 98, 255]);
}

#[test]
fn a_tokenizer_json_is_taken_as_far_as_it_is_a_function_of_the_text() {
    let json = byte_level();
    let tokenizer = Tokenizer::parse(json.clone()).unwrap();
    assert_eq!((tokenizer.size(), tokenizer.name()), (261, muster_proof::Digest::of(&json).to_string()));
    let the = tokens(&tokenizer, " the");
    assert_eq!(the, [258], "one pair after the other");
    assert_eq!(tokens(&tokenizer, &" the".repeat(9)), [258; 9], "truncation is off");
    assert_eq!(tokens(&tokenizer, "</s>").len(), 4, "control looks like text in a text");
    assert_eq!(tokenizer.end(), None);
    let ending = Tokenizer::parse(json.clone()).unwrap().ending_with("</s>").unwrap();
    assert_eq!(ending.end(), Some(260));
    let error = tokenizer.ending_with("<eos>").unwrap_err().to_string();
    assert!(error.contains("no token \"<eos>\""), "{error}");
    assert!(Tokenizer::gpt2().unwrap().ending_with("x").is_err());

    let edit = |from: &str, to: &str| {
        let text = String::from_utf8(json.clone()).unwrap();
        assert!(text.contains(from));
        Tokenizer::parse(text.replace(from, to).into_bytes()).unwrap_err().to_string()
    };
    assert!(edit("\"dropout\":null", "\"dropout\":0.1").contains("by chance"));
    assert!(edit("\"the\":257", "\"the\":256").contains("same number"));
    assert!(edit("\"the\":257", "\"the\":4000000000").contains("1048576"));
    assert!(Tokenizer::parse(b"{".to_vec()).is_err() && Tokenizer::parse(Vec::new()).is_err());
}

#[test]
fn text_comes_back_as_it_was_character_by_character() {
    let mut random = Random(5);
    for tokenizer in [Tokenizer::bytes(), Tokenizer::gpt2().unwrap(), Tokenizer::parse(byte_level()).unwrap()]
    {
        for _ in 0..100 {
            let (before, text) = (text(&mut random, 3), text(&mut random, 30));
            let mut decoder = tokenizer.decoder(&tokens(&tokenizer, &before));
            let pieces: Vec<String> =
                tokens(&tokenizer, &text).iter().map(|token| decoder.push(*token)).collect();
            assert_eq!(pieces.concat() + &decoder.finish(), text, "{}", tokenizer.name());
            assert!(!pieces.iter().any(|piece| piece.contains('\u{fffd}')), "{pieces:?}");
        }
        // Bytes that never become a character do not hold the rest back.
        let mut decoder = tokenizer.decoder(&[]);
        let letter = tokens(&tokenizer, "\u{e9}x");
        let shown: String = [letter[0]; 30].iter().map(|token| decoder.push(*token)).collect();
        assert!(!shown.is_empty(), "{}", tokenizer.name());
    }
}

#[test]
fn a_choice_is_a_word_or_a_path() {
    assert_eq!("bytes".parse(), Ok(Choice::Bytes));
    assert_eq!("gpt2".parse(), Ok(Choice::Gpt2));
    assert_eq!("x/tokenizer.json".parse(), Ok(Choice::File("x/tokenizer.json".into())));
    assert!("".parse::<Choice>().is_err());
    let error = Tokenizer::load(&Choice::File("/none".into())).unwrap_err().to_string();
    assert!(error.contains("/none") && error.contains("gpt2"), "{error}");
}

fn all(text: &str, split: Split) -> Vec<&str> {
    let cut = cuts(text.as_bytes(), split, Unit::Document, true);
    assert_eq!(cut.whole, !text.is_empty());
    let starts = std::iter::once(0).chain(cut.ends.iter().copied());
    starts.zip(&cut.ends).map(|(start, end)| &text[start..*end]).collect()
}

#[test]
fn documents_are_what_is_written() {
    let text = "\n\none\ntwo\r\n\r\n \nthree\n\n\nfour";
    assert_eq!(all(text, Split::File), [text]);
    assert_eq!(all(text, Split::Line), ["\n\none\n", "two\r\n", "\r\n \n", "three\n", "\n\nfour"]);
    assert_eq!(all(text, Split::Paragraph), ["\n\none\ntwo\r\n\r\n", " \nthree\n\n\n", "four"]);
    for split in [Split::File, Split::Line, Split::Paragraph] {
        assert_eq!(all("", split), [""; 0]);
        assert_eq!(all("\n\n", split), ["\n\n"]);
        assert_eq!(all("a\n\n", split).concat(), "a\n\n");
    }
    assert_eq!(all("a\n\n\r", Split::Paragraph), ["a\n\n", "\r"]);
    assert_eq!(all("a\n\n\r\n", Split::Paragraph), ["a\n\n\r\n"]);
}
