//! The calendar month, for the bytes of a month.

use time::OffsetDateTime;

use crate::budget::Month;

/// The calendar month of a time in seconds since 1970, in UTC.
pub fn month(unix: u64) -> Month {
    let time = i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Month(u32::try_from(time.year()).unwrap_or_default() * 12 + u32::from(u8::from(time.month())) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_at_midnight() {
        // date -u -d 2026-12-01 +%s
        assert_eq!(month(1_796_083_200), Month(2026 * 12 + 11));
        assert_eq!(month(1_796_083_199), Month(2026 * 12 + 10));
    }
}
