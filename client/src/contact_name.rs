//! Names of contacts. The other side chooses its name. A name must not break a line or control a terminal, and must
//! not look like another contact's name.

use std::collections::HashSet;

use chappe_common::printable::is_printable;
use unicode_normalization::UnicodeNormalization as _;
use unicode_security::skeleton;
use zeroize::Zeroizing;

/// The longest name of a contact in bytes.
pub const MAX_NAME: usize = 64;

/// Normalizes a name: composed form (NFC), only printable characters, single spaces, at most [`MAX_NAME`] bytes.
pub(crate) fn clean_name(name: &str) -> String {
    let shown = name.nfc().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| is_printable(*c));
    let mut clean = Zeroizing::new(String::new());
    for c in shown {
        let doubles_a_space = c == ' ' && (clean.is_empty() || clean.ends_with(' '));
        if !doubles_a_space && clean.len() + c.len_utf8() <= MAX_NAME {
            clean.push(c);
        }
    }
    clean.trim_end().to_owned()
}

/// What a name looks like: equal for names that look the same or differ only in case, by the skeletons of Unicode Technical
/// Standard 39.
fn look(name: &str) -> String {
    let lower = skeleton(name).collect::<String>().to_lowercase();
    skeleton(&lower).filter(|c| *c != ' ').collect()
}

/// The names of a list of contacts. The look of each is computed once: a comparison of all pairs took a second for a full
/// list.
#[derive(Default)]
pub(crate) struct TakenNames {
    looks: HashSet<String>,
}

impl TakenNames {
    /// The names that contacts have already.
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self { looks: names.map(look).collect() }
    }

    /// Takes `wanted`, with a number appended if it looks like a name that is taken. Returns the name.
    pub(crate) fn take(&mut self, wanted: &str) -> String {
        let clean = clean_name(wanted);
        let wanted = if clean.is_empty() { "contact" } else { &clean };
        let numbered = (2..).map(|n| {
            let number = format!(" {n}");
            let end = wanted.floor_char_boundary(MAX_NAME - number.len());
            format!("{}{number}", wanted[..end].trim_end())
        });
        let mut names = std::iter::once(wanted.to_owned()).chain(numbered);
        names.find(|name| self.looks.insert(look(name))).expect("some number is free")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_the_other_side_cannot_break_a_line() {
        assert_eq!(clean_name(" Ada\x1b[31m "), "Ada[31m");
        assert_eq!(clean_name("Ada\nLovelace\u{2028}\u{3000}  x"), "Ada Lovelace x");
        assert_eq!(clean_name("\u{202e}eci\u{2066}lA\u{200b}\u{feff}\u{3164}\u{2800}"), "ecilA");
        assert_eq!(clean_name("Zoe\u{308}"), "Zo\u{eb}");
        assert_eq!(clean_name("мир 东京"), "мир 东京");
        assert_eq!(clean_name(&"é".repeat(40)).len(), MAX_NAME);
    }

    #[test]
    fn a_second_name_that_looks_like_the_first_gets_a_number() {
        for (first, second) in [
            ("Bob", "Bob"),
            ("Bob", "B\u{200b}o\u{202e}b\u{2069}"),
            ("Bob", "Bоb"),
            ("Bob", "bob"),
            ("Bob", "𝐁𝐨𝐛"),
            ("paypal", "раураl"),
            ("Ill", "lIl"),
            ("Ann Lee", "AnnLee"),
            ("Zoë", "Zoe\u{308}"),
            ("contact", "\u{200b}"),
        ] {
            let told = TakenNames::of([first].into_iter()).take(second);
            assert!(told.ends_with(" 2"), "{first} and {second:?} become {told:?}");
        }
        for (first, second) in [("Bob", "Rob"), ("Ада", "Ева"), ("王", "玉")] {
            assert_eq!(TakenNames::of([first].into_iter()).take(second), second);
        }
        let long = "x".repeat(MAX_NAME);
        let mut taken = TakenNames::default();
        let told: Vec<_> = (0..3).map(|_| taken.take(&long)).collect();
        let cut = "x".repeat(MAX_NAME - 2);
        assert_eq!(told, [long, format!("{cut} 2"), format!("{cut} 3")]);
    }
}
