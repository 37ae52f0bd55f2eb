//! Makes text from others safe to show: on a terminal, in a log, in a page.
//!
//! A control character can clear a screen or write to the clipboard. A format character can reverse text or hide in
//! it. So unprintable characters are escaped, as in `\u{1b}`. Escape text where it is written. Decoders also reject or
//! drop such characters, for apps that show the text themselves.

use std::fmt::{self, Write as _};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// Invisible characters in categories of visible ones: Unicode's `Default_Ignorable_Code_Point`, as far as the general category
/// does not imply it; and the Braille pattern without dots, a joiner of numbers, blank hieroglyphs, a filler, and a null note.
const INVISIBLE: [(char, char); 14] = [
    ('\u{34f}', '\u{34f}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{2065}', '\u{2065}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{1107f}', '\u{1107f}'),
    ('\u{13441}', '\u{13442}'),
    ('\u{16fe4}', '\u{16fe4}'),
    ('\u{1d159}', '\u{1d159}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether `c` is visible and changes nothing around it. Spaces of all widths are printable; line ends are not.
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let hidden = matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::PrivateUse
            | GeneralCategory::Surrogate
            | GeneralCategory::Unassigned
    );
    !hidden && !INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Text from others on one line. Unprintable characters are escaped as in Rust: `\n` and `\u{202e}`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

/// Several lines with text from others in them. As [`Escaped`], but line ends stay.
#[derive(Clone, Copy, Debug)]
pub struct EscapedLines<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, is_printable)
    }
}

impl fmt::Display for EscapedLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, |c| c == '\n' || is_printable(c))
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str, stays: impl Fn(char) -> bool) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(|c| !stays(c)) {
        let (before, from) = rest.split_at(at);
        f.write_str(before)?;
        let mut chars = from.chars();
        if let Some(c) = chars.next() {
            c.escape_default().try_for_each(|c| f.write_char(c))?;
        }
        rest = chars.as_str();
    }
    f.write_str(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_and_bidi_characters_are_escaped_and_letters_are_not() {
        for (text, escaped) in [
            ("Zoë 东京 мир \u{200d}", "Zoë 东京 мир \\u{200d}"),
            ("\u{1b}]52;c;eA==\u{7}", "\\u{1b}]52;c;eA==\\u{7}"),
            ("a\u{202e}b\u{2066}c\u{9b}d", "a\\u{202e}b\\u{2066}c\\u{9b}d"),
            ("one\ntwo\rthree\u{2028}\u{2029}", "one\\ntwo\\rthree\\u{2028}\\u{2029}"),
            ("\u{feff}\u{ad}\u{61c}\u{e0041}\u{fe0f}\u{3164}", "\\u{feff}\\u{ad}\\u{61c}\\u{e0041}\\u{fe0f}\\u{3164}"),
            ("\u{1d159}\u{13441}\u{13442}\u{16fe4}\u{1107f}", "\\u{1d159}\\u{13441}\\u{13442}\\u{16fe4}\\u{1107f}"),
        ] {
            assert_eq!(Escaped(text).to_string(), escaped);
        }
        assert_eq!(EscapedLines("one\ntwo\r").to_string(), "one\ntwo\\r");
    }

    proptest! {
        #[test]
        fn nothing_but_printable_characters_is_left(text in any::<String>()) {
            prop_assert!(Escaped(&text).to_string().chars().all(is_printable));
            prop_assert!(EscapedLines(&text).to_string().split('\n').all(|line| line.chars().all(is_printable)));
        }
    }
}
