//! JSON as most clients write it: one flat object of strings without escapes, taken apart in one pass over whole blocks.
//!
//! Everything else is not refused here but left to the parser of all JSON. What is taken, that parser would have taken.

/// The fields that messages between clients have; the values are JSON, with their quotes.
#[derive(Default)]
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(crate) struct Plain<'a> {
    /// `type`.
    pub(crate) kind: Option<&'a str>,
    /// `id`.
    pub(crate) id: Option<&'a str>,
    /// `to`.
    pub(crate) to: Option<&'a str>,
    /// `target`.
    pub(crate) target: Option<&'a str>,
    /// `payload`.
    pub(crate) payload: Option<&'a str>,
}

/// The fields of `text`, where it is plain and has no others.
pub(crate) fn take_apart(text: &str) -> Option<Plain<'_>> {
    let bytes = text.as_bytes();
    let mut plain = Plain::default();
    let mut at = expect(bytes, 0, b'{')?;
    loop {
        let (key, after) = string(text, skip_space(bytes, at))?;
        let (value, after) = string(text, skip_space(bytes, expect(bytes, after, b':')?))?;
        let field = match key {
            "\"type\"" => &mut plain.kind,
            "\"id\"" => &mut plain.id,
            "\"to\"" => &mut plain.to,
            "\"target\"" => &mut plain.target,
            "\"payload\"" => &mut plain.payload,
            _ => return None,
        };
        // A field that stands there twice is an error, which the parser tells.
        if field.replace(value).is_some() {
            return None;
        }
        let after = skip_space(bytes, after);
        match bytes.get(after)? {
            b',' => at = after + 1,
            b'}' => return (skip_space(bytes, after + 1) == bytes.len()).then_some(plain),
            _ => return None,
        }
    }
}

/// Whether `json` is one string without escapes.
pub(crate) fn is_string(json: &[u8]) -> bool {
    str::from_utf8(json).is_ok_and(|text| string(text, 0).is_some_and(|(_, end)| end == json.len()))
}

/// The string at `at` with its quotes, and where it ends.
fn string(text: &str, at: usize) -> Option<(&str, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let end = at + 1 + special(&bytes[at + 1..])?;
    // The quotes are ASCII, so both ends are between characters.
    (bytes[end] == b'"').then(|| Some((text.get(at..=end)?, end + 1)))?
}

/// Where the first byte is that ends a string or that it can't hold as it is.
fn special(bytes: &[u8]) -> Option<usize> {
    let is_special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    // Without a branch for each byte, the compiler makes a few vector instructions of a block.
    let (blocks, _) = bytes.as_chunks::<64>();
    let clear =
        blocks.iter().take_while(|block| !block.iter().fold(false, |any, byte| any | is_special(*byte))).count();
    let from = clear * 64;
    bytes[from..].iter().position(|byte| is_special(*byte)).map(|at| from + at)
}

fn expect(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = skip_space(bytes, at);
    (bytes.get(at) == Some(&byte)).then_some(at + 1)
}

fn skip_space(bytes: &[u8], at: usize) -> usize {
    let space = bytes[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
    at + space
}

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use serde_json::value::RawValue;

    use super::*;

    /// A string without escapes.
    pub const STRING: (&str, fn(&[u8]) -> bool) = ("string", |json| {
        let is_string = is_string(json);
        if is_string {
            assert!(serde_json::from_slice::<&RawValue>(json).is_ok());
            assert!(serde_json::from_slice::<&str>(json).is_ok_and(|text| text.len() + 2 == json.len()));
        }
        is_string
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_message_is_taken_apart_where_it_lies() {
        let text = r#"{"type":"call_ice","to":"AA","payload":"é{[","id":"7"}"#;
        let plain = take_apart(text).expect("plain");
        assert_eq!((plain.kind, plain.to, plain.target), (Some("\"call_ice\""), Some("\"AA\""), None));
        assert_eq!((plain.payload, plain.id), (Some("\"é{[\""), Some("\"7\"")));
        assert_eq!(take_apart("{ \"type\" :\t\"x\" }\n").and_then(|plain| plain.kind), Some("\"x\""));
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_parser() {
        for text in [
            "",
            "{",
            "{}",
            r#"{"type":"a","type":"b"}"#,
            r#"{"type":7}"#,
            r#"{"type":"a\n"}"#,
            "{\"type\":\"a\u{1f}\"}",
            r#"{"type":"a"}x"#,
            r#"{"type":"a",}"#,
            r#"{"type":"a" "id":"b"}"#,
            r#"{"type":"a","other":"b"}"#,
            r#"{"type":"a"#,
            r#"["type","a"]"#,
        ] {
            assert_eq!(take_apart(text), None, "{text}");
        }
    }

    #[test]
    fn a_string_ends_where_it_ends_however_long_it_is() {
        for len in 0..100 {
            let text = "x".repeat(len);
            assert!(is_string(format!("\"{text}\"").as_bytes()));
            for wrong in ["\"", "\\", "\n", "\0"] {
                assert!(!is_string(format!("\"{text}{wrong}{text}\"").as_bytes()), "{len} {wrong:?}");
            }
            assert!(!is_string(format!("\"{text}").as_bytes()));
        }
        assert!(!is_string(b"") && !is_string(b"\"") && !is_string(b"x") && !is_string(b"\"\xFF\""));
    }

    #[test]
    fn mutated_strings_are_strings_to_the_parser_too() {
        let long = format!("\"{}é\"", "x".repeat(70));
        chappe_mutations::run(fuzzed::STRING, &["\"\"", "\"v=0\"", "\"«é»\"", &long]);
    }
}
