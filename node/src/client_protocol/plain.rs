//! A fast parser for JSON as most clients write it: one flat object of strings without escapes.
//!
//! Any other message is left to the general JSON parser. The general parser accepts every message that this one
//! accepts.

/// The fields of messages between clients. The values are JSON, including the quotes.
#[derive(Default)]
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(crate) struct Plain<'a> {
    pub(crate) kind: Option<&'a str>,
    pub(crate) id: Option<&'a str>,
    pub(crate) to: Option<&'a str>,
    pub(crate) target: Option<&'a str>,
    pub(crate) payload: Option<&'a str>,
}

/// Parses `text`. Returns `None` if it isn't plain or has other fields.
pub(crate) fn parse(text: &str) -> Option<Plain<'_>> {
    let bytes = text.as_bytes();
    let mut plain = Plain::default();
    let mut at = expect(bytes, 0, b'{')?;
    loop {
        let (key, after) = scan_string(text, skip_space(bytes, at))?;
        let (value, after) = scan_string(text, skip_space(bytes, expect(bytes, after, b':')?))?;
        let field = match key {
            "\"type\"" => &mut plain.kind,
            "\"id\"" => &mut plain.id,
            "\"to\"" => &mut plain.to,
            "\"target\"" => &mut plain.target,
            "\"payload\"" => &mut plain.payload,
            _ => return None,
        };
        // A duplicate field is an error, which the general parser reports.
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

/// Returns whether `json` is one string without escapes.
pub(crate) fn is_string(json: &[u8]) -> bool {
    str::from_utf8(json).is_ok_and(|text| scan_string(text, 0).is_some_and(|(_, end)| end == json.len()))
}

/// Scans the string at `at`. Returns it with its quotes, and the offset after it.
fn scan_string(text: &str, at: usize) -> Option<(&str, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let end = at + 1 + find_special(&bytes[at + 1..])?;
    // The quotes are ASCII, so both ends are character boundaries.
    (bytes[end] == b'"').then(|| Some((text.get(at..=end)?, end + 1)))?
}

/// Returns the offset of the first quote, backslash or control character.
fn find_special(bytes: &[u8]) -> Option<usize> {
    let is_special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    // No branch for each byte, so that the compiler can vectorize a block.
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

/// Properties that the tests and the fuzzer check for every input.
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
    fn the_usual_message_is_parsed_in_place() {
        let text = r#"{"type":"call_ice","to":"AA","payload":"é{[","id":"7"}"#;
        let plain = parse(text).expect("plain");
        assert_eq!((plain.kind, plain.to, plain.target), (Some("\"call_ice\""), Some("\"AA\""), None));
        assert_eq!((plain.payload, plain.id), (Some("\"é{[\""), Some("\"7\"")));
        assert_eq!(parse("{ \"type\" :\t\"x\" }\n").and_then(|plain| plain.kind), Some("\"x\""));
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
            assert_eq!(parse(text), None, "{text}");
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
