//! The bound on the nesting depth of a client's JSON.

use chappe_common::client::MAX_DEPTH;

/// Returns whether `json` nests at most [`MAX_DEPTH`] levels. Doesn't check that it is valid JSON.
///
/// One fast scan counts the brackets. Only a message with more than [`MAX_DEPTH`] of them is walked.
pub(crate) fn is_within_bounds(json: &[u8]) -> bool {
    memchr::memchr2_iter(b'{', b'[', json).take(MAX_DEPTH + 1).count() <= MAX_DEPTH || walk_brackets(json)
}

fn walk_brackets(json: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut bytes = json.iter();
    let mut in_string = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => {
                bytes.next();
            }
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixteenth_level_is_allowed_and_the_seventeenth_is_not() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(is_within_bounds(nested(16).as_bytes()));
        assert!(!is_within_bounds(nested(17).as_bytes()));
    }

    #[test]
    fn brackets_side_by_side_or_inside_strings_do_not_nest() {
        assert!(is_within_bounds("[],".repeat(100).as_bytes()));
        assert!(is_within_bounds(format!("{{\"a\\\"\":\"{}\"}}", "{[".repeat(100)).as_bytes()));
        assert!(!is_within_bounds(format!("{{\"a\":\"\\\\\",\"b\":{}", "[".repeat(16)).as_bytes()));
    }
}
