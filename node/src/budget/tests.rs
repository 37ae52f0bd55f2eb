use chappe_common::keys::SecretKey;
use proptest::prelude::*;

use super::*;

const DAY: u64 = 24 * 3600;
/// date -u -d 2026-12-01 +%s
const DECEMBER: u64 = 1_796_083_200;
const JANUARY: u64 = DECEMBER + 31 * DAY;
const FEBRUARY: u64 = JANUARY + 31 * DAY;

fn at(secs: u64) -> UnixTime {
    UnixTime::from_secs(secs)
}

fn budget(monthly_bytes: u64) -> Budget {
    of_node(1, monthly_bytes, State::default())
}

fn of_node(node: u8, monthly_bytes: u64, state: State) -> Budget {
    let settings = Settings { monthly_bytes, first_day: 1 };
    Budget::new(settings, SecretKey::from_bytes(&[node; 32]).node_id(), state)
}

#[test]
fn the_relay_goes_first_then_the_listing_then_the_clients_and_nothing_comes_back_within_the_month() {
    let mut budget = budget(1000);
    let mut now = DECEMBER;
    let levels = [899, 1, 49, 1, 39, 1, 500, 0].map(|bytes| {
        now += 3600;
        budget.handle_usage(bytes, at(now))
    });
    use Level::{Asleep, NoRelay, Open, Reserve};
    assert_eq!(levels, [Open, NoRelay, NoRelay, Reserve, Reserve, Asleep, Asleep, Asleep]);
    assert_eq!(budget.handle_usage(0, at(JANUARY - 1)), Asleep);
    assert_eq!(budget.used(at(JANUARY - 1)), 1490);
}

#[test]
fn a_node_that_slept_wakes_within_the_window_and_at_another_time_than_others() {
    let mut wakes = Vec::new();
    for node in 1..=40 {
        let mut budget = of_node(node, 1000, State::default());
        budget.handle_usage(0, at(DECEMBER));
        // It is awake for ten days.
        assert_eq!(budget.handle_usage(1000, at(DECEMBER + 10 * DAY)), Level::Asleep);
        let wake = budget.open_at(at(DECEMBER + 10 * DAY));
        assert!((at(JANUARY)..=at(FEBRUARY - 10 * DAY)).contains(&wake), "{wake}");
        assert_eq!(budget.handle_usage(0, at(JANUARY)), Level::Asleep);
        assert_eq!((budget.open_at(at(JANUARY)), budget.used(at(JANUARY))), (wake, 0));
        assert_eq!(budget.handle_usage(0, at(wake.as_secs() - 1)), Level::Asleep);
        // A restart does not draw again.
        let mut budget = of_node(node, 1000, budget.state().clone());
        assert_eq!(budget.handle_usage(0, at(wake.as_secs() - 1)), Level::Asleep);
        assert_eq!(budget.handle_usage(0, wake), Level::Open);
        // Awake for nine days, and then as long as that before February ends in March.
        assert_eq!(budget.handle_usage(1000, wake + Duration::from_secs(9 * DAY)), Level::Asleep);
        let next = budget.open_at(wake + Duration::from_secs(9 * DAY));
        assert!((at(FEBRUARY)..=at(FEBRUARY + 19 * DAY)).contains(&next), "{next}");
        wakes.push(wake.as_secs());
    }
    wakes.sort_unstable();
    let weeks: std::collections::BTreeSet<_> = wakes.iter().map(|wake| (wake - JANUARY) / (7 * DAY)).collect();
    assert_eq!(weeks.len(), 3, "some in each of the three weeks: {wakes:?}");
    wakes.dedup();
    assert_eq!(wakes.len(), 40, "no two at once");
}

#[test]
fn a_larger_budget_wakes_a_waiting_node_earlier_and_a_smaller_one_does_not_send_it_back() {
    for node in 1..=40 {
        let mut slept = of_node(node, 1000, State::default());
        slept.handle_usage(0, at(DECEMBER));
        slept.handle_usage(1000, at(DECEMBER + 5 * DAY));
        let mut waiting = of_node(node, 1000, slept.state().clone());
        waiting.handle_usage(0, at(JANUARY));
        let wakes = [500, 1000, 2000, 5000, 1_000_000].map(|monthly_bytes| {
            let budget = of_node(node, monthly_bytes, waiting.state().clone());
            assert!(!budget.is_used_up(at(JANUARY)), "it only waits for its turn");
            budget.wake_at(budget.calendar.period(at(JANUARY))).as_secs()
        });
        assert_eq!(wakes[0], wakes[1]);
        assert!(wakes.is_sorted_by(|one, next| one >= next), "{wakes:?}");
        assert!(wakes[3] <= JANUARY + 6 * DAY, "5 days of 1000 are 25 of 5000: {wakes:?}");
        assert_eq!(wakes[4], JANUARY);
        let now = JANUARY + DAY;
        let mut raised = of_node(node, 1_000_000, waiting.state().clone());
        assert_eq!(raised.handle_usage(0, at(now)), Level::Open);
        let mut lowered = of_node(node, 1000, raised.state().clone());
        assert_eq!(lowered.handle_usage(900, at(now + 60)), Level::NoRelay, "it was awake in this month");
    }
}

#[test]
fn a_node_that_a_larger_budget_wakes_continues_at_the_start_of_the_next_month() {
    let mut slept = budget(1000);
    slept.handle_usage(0, at(DECEMBER));
    assert_eq!(slept.handle_usage(1000, at(DECEMBER + 5 * DAY)), Level::Asleep);
    assert!(slept.is_used_up(at(DECEMBER + 5 * DAY)));
    let mut raised = of_node(1, 2000, slept.state().clone());
    assert_eq!(raised.handle_usage(0, at(DECEMBER + 10 * DAY)), Level::Open);
    assert_eq!(raised.open_at(at(DECEMBER + 10 * DAY)), at(JANUARY));
    // It was awake for five days, and now for fifteen more.
    let mut again = raised.clone();
    assert_eq!(again.handle_usage(1000, at(DECEMBER + 25 * DAY)), Level::Asleep);
    assert_eq!(again.state().slept.map(|slept| slept.awake), Some(Duration::from_secs(20 * DAY)));
    assert_eq!(raised.handle_usage(0, at(JANUARY)), Level::Open);
}

#[test]
fn a_node_whose_bytes_are_used_up_while_it_waits_sleeps_until_the_next_month() {
    let mut budget = budget(1000);
    budget.handle_usage(0, at(DECEMBER));
    budget.handle_usage(1000, at(DECEMBER + DAY));
    assert_eq!(budget.handle_usage(0, at(JANUARY)), Level::Asleep);
    assert!(!budget.is_used_up(at(JANUARY)) && budget.open_at(at(JANUARY)) < at(FEBRUARY));
    // By other programs.
    assert_eq!(budget.handle_usage(1000, at(JANUARY + 60)), Level::Asleep);
    assert!(budget.is_used_up(at(JANUARY + 60)));
    assert_eq!(budget.open_at(at(JANUARY + 60)), at(FEBRUARY));
}

#[test]
fn a_node_that_did_not_sleep_continues_at_the_start_of_a_month() {
    let mut budget = budget(1000);
    assert_eq!(budget.handle_usage(970, at(JANUARY - 10)), Level::Reserve);
    // Ten seconds, half of them in January.
    assert_eq!(budget.handle_usage(10, at(JANUARY)), Level::Open);
    assert_eq!(budget.used(at(JANUARY)), 0);
    assert_eq!(budget.handle_usage(40, at(JANUARY + 30)), Level::Open);
    assert_eq!(budget.used(at(JANUARY + 30)), 40);
}

#[test]
fn bytes_over_the_end_of_a_month_are_divided_by_time() {
    let mut budget = budget(1000);
    budget.handle_usage(100, at(JANUARY - 30));
    budget.handle_usage(40, at(JANUARY + 10));
    assert_eq!((budget.used(at(JANUARY - 1)), budget.used(at(JANUARY))), (140, 10));
}

#[test]
fn a_first_clock_in_the_far_future_costs_at_most_one_month() {
    let mut budget = budget(1000);
    budget.handle_usage(10, at(DECEMBER + 3000 * DAY));
    assert_eq!(budget.handle_usage(5, at(DECEMBER + DAY)), Level::Open);
    assert_eq!(budget.used(at(DECEMBER + DAY)), 15, "it was December");
    budget.handle_usage(0, at(JANUARY - 10));
    budget.handle_usage(0, at(JANUARY));
    assert_eq!(budget.used(at(JANUARY)), 0);
}

#[test]
fn a_clock_that_begins_in_1970_after_a_restart_keeps_the_month() {
    let mut budget = budget(1000);
    budget.handle_usage(900, at(DECEMBER + DAY));
    let mut budget = of_node(1, 1000, budget.state().clone());
    assert_eq!(budget.handle_usage(7, at(100)), Level::NoRelay);
    assert_eq!(budget.handle_usage(0, at(DECEMBER + 2 * DAY)), Level::NoRelay);
    assert_eq!(budget.used(at(DECEMBER + 2 * DAY)), 907);
}

proptest! {
    /// Two months of a node that uses what its level allows.
    #[test]
    fn no_month_exceeds_the_budget_by_more_than_a_step(
        monthly in 1_000u64..10_000_000_000,
        steps in proptest::collection::vec((1u64..20_000, 0u64..200_000), 400),
        node in 1u8..20,
    ) {
        let mut budget = of_node(node, monthly, State::default());
        let (mut now, mut level, mut most) = (DECEMBER, Level::Open, 0);
        for (pause, rate) in steps {
            let bytes = match level {
                Level::Open => rate * pause,
                Level::NoRelay | Level::Reserve => rate / 10 * pause,
                Level::Asleep => 0,
            };
            most = most.max(bytes);
            let before = budget.calendar.period(at(now));
            now += pause;
            let next = budget.handle_usage(bytes, at(now));
            if budget.calendar.period(at(now)) == before && now >= budget.wake_at(before).as_secs() {
                prop_assert!(next >= level || level == Level::Asleep, "a level fell from {level:?} to {next:?}");
                prop_assert!(next >= level || budget.used(at(now)) * 100 < monthly * 99);
            }
            level = next;
            prop_assert!(budget.used(at(now)) <= monthly + most, "{} of {monthly}", budget.used(at(now)));
        }
    }

    /// The clock is set again and again, by more than a day, and is right in the end.
    #[test]
    fn a_clock_that_is_set_takes_no_bytes_from_the_month(
        steps in proptest::collection::vec((-230i64..230, 0u64..1000), 1..30),
        restarts in proptest::collection::vec(any::<bool>(), 30),
    ) {
        let mut budget = budget(1_000_000);
        budget.handle_usage(500, at(DECEMBER + 5 * DAY));
        let mut used = 500;
        for ((days, bytes), restart) in steps.into_iter().zip(restarts) {
            let now = (DECEMBER + 6 * DAY).saturating_add_signed(days * 2 * DAY.cast_signed());
            budget.handle_usage(bytes, at(now));
            used += bytes;
            if restart {
                budget = of_node(1, 1_000_000, budget.state().clone());
            }
        }
        budget.handle_usage(0, at(DECEMBER + 7 * DAY));
        prop_assert!(budget.used(at(DECEMBER + 7 * DAY)) >= used, "{} of {used}", budget.used(at(DECEMBER + 7 * DAY)));
    }
}
