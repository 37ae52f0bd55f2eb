//! Names of contacts. The other side chooses its name. A name must not break a line or control a terminal, and must
//! not look like another contact's name.

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

/// Whether two names look the same or differ only in case, by the skeletons of Unicode Technical Standard 39.
fn are_confusable(a: &str, b: &str) -> bool {
    let lower = |name: &str| skeleton(name).collect::<String>().to_lowercase();
    let look = |name: &str| skeleton(&lower(name)).filter(|c| *c != ' ').collect::<String>();
    look(a) == look(b)
}

/// Returns `wanted`, with a number appended if it looks like one of `taken`.
pub(crate) fn distinct_name<'a>(wanted: &str, taken: impl Iterator<Item = &'a str> + Clone) -> String {
    let clean = clean_name(wanted);
    let wanted = if clean.is_empty() { "contact" } else { &clean };
    let numbered = (2..).map(|n| {
        let number = format!(" {n}");
        let end = wanted.floor_char_boundary(MAX_NAME - number.len());
        format!("{}{number}", wanted[..end].trim_end())
    });
    let is_free = |name: &String| taken.clone().all(|known| !are_confusable(known, name));
    std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).expect("some number is free")
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
            let told = distinct_name(second, [first].into_iter());
            assert!(told.ends_with(" 2"), "{first} and {second:?} become {told:?}");
        }
        for (first, second) in [("Bob", "Rob"), ("Ада", "Ева"), ("王", "玉")] {
            assert_eq!(distinct_name(second, [first].into_iter()), second);
        }
        let long = "x".repeat(MAX_NAME);
        assert_eq!(distinct_name(&long, [long.as_str()].into_iter()), format!("{} 2", "x".repeat(MAX_NAME - 2)));
    }
}
