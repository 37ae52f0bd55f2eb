//! What the kernel counts of listening sockets whose queue was full.

use std::fs;

/// How often a connection was dropped since a queue of this machine's listening sockets was full.
///
/// # Panics
/// This is not Linux.
pub fn overflows() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").expect("Linux");
    count(&text, "ListenOverflows").expect("a counter of the kernel")
}

/// One counter of `TcpExt`: its names stand in one line, its values in the next.
fn count(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|other| other == name)?;
    values.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_value_under_its_name() {
        let text = "TcpExt: A ListenOverflows B\nTcpExt: 1 2 3\nIpExt: ListenOverflows\nIpExt: 9\n";
        assert_eq!(count(text, "ListenOverflows"), Some(2));
        assert_eq!(count(text, "Missing"), None);
    }
}
