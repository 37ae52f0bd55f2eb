//! The months of the budget, which may begin on another day than the first.

use std::{fmt, str::FromStr};

use chappe_common::time::UnixTime;
use time::{Date, Month, OffsetDateTime};

/// A month of the budget, named after the calendar month in which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Period {
    /// Months since the year 0.
    months: u32,
}

impl Period {
    /// The period after this one.
    pub(crate) const fn next(self) -> Self {
        Self { months: self.months + 1 }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.months / 12, self.months % 12 + 1)
    }
}

/// The text is not a year and a month, such as `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a year and a month are expected, such as 2026-11")]
pub(crate) struct PeriodError;

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let (year, month) = text.split_once('-').ok_or(PeriodError)?;
        let year: u32 = year.parse().ok().filter(|year| *year <= 9999).ok_or(PeriodError)?;
        let month: u32 = month.parse().ok().filter(|month| (1..=12).contains(month)).ok_or(PeriodError)?;
        Ok(Self { months: year * 12 + month - 1 })
    }
}

/// Divides time into periods, in UTC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calendar {
    first_day: u8,
}

impl Calendar {
    /// Periods begin on this day of each month, at most 28.
    pub(crate) const fn new(first_day: u8) -> Self {
        Self { first_day }
    }

    /// The period of a time.
    pub(crate) fn period(self, now: UnixTime) -> Period {
        let date = i64::try_from(now.as_secs()).ok().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
        let date = date.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let months = u32::try_from(date.year()).unwrap_or_default() * 12 + u32::from(u8::from(date.month())) - 1;
        Period { months: if date.day() < self.first_day { months - 1 } else { months } }
    }

    /// When a period begins.
    pub(crate) fn start(self, period: Period) -> UnixTime {
        let (year, month) = (i32::try_from(period.months / 12), u8::try_from(period.months % 12 + 1));
        let month = month.ok().and_then(|month| Month::try_from(month).ok()).unwrap_or(Month::January);
        let date = Date::from_calendar_date(year.unwrap_or(9999), month, self.first_day).unwrap_or(Date::MAX);
        UnixTime::from_secs(date.midnight().assume_utc().unix_timestamp().try_into().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_begins_at_midnight_of_its_first_day() {
        // date -u -d 2026-12-01 +%s
        let december = UnixTime::from_secs(1_796_083_200);
        let before = UnixTime::from_secs(december.as_secs() - 1);
        let calendar = Calendar::new(1);
        let periods = [before, december].map(|now| calendar.period(now).to_string());
        assert_eq!(periods, ["2026-11", "2026-12"]);
        assert_eq!(calendar.start(calendar.period(december)), december);
        // A provider that bills from the 15th. date -u -d 2026-11-15 +%s
        let calendar = Calendar::new(15);
        assert_eq!(calendar.period(december).to_string(), "2026-11");
        assert_eq!(calendar.start(calendar.period(december)), UnixTime::from_secs(1_794_700_800));
        assert_eq!(calendar.period(UnixTime::from_secs(1_794_700_799)).to_string(), "2026-10");
        // January, before its 15th, belongs to the year before.
        assert_eq!(calendar.period(UnixTime::from_secs(1_798_761_600)).to_string(), "2026-12");
        assert_eq!("2026-12".parse(), Ok(calendar.period(UnixTime::from_secs(1_798_761_600))));
    }

    #[test]
    fn every_time_lies_within_its_period() {
        for first_day in [1, 2, 15, 28] {
            let calendar = Calendar::new(first_day);
            for day in 0..800 {
                let now = UnixTime::from_secs(1_796_083_200 + day * 86_400 + day);
                let period = calendar.period(now);
                assert!(calendar.start(period) <= now && now < calendar.start(period.next()), "{first_day} {day}");
            }
        }
    }

    #[test]
    fn other_texts_are_no_period() {
        for text in ["", "2026", "2026-13", "2026-00", "x-11", "99999-01", "2026-x"] {
            assert_eq!(text.parse::<Period>(), Err(PeriodError), "{text}");
        }
    }
}
