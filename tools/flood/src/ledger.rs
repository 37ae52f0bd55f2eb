//! Compares the attacker's counts with the node's: each message was served, or refused and counted. Pure.

use std::collections::BTreeMap;

use super::{baseline::Observed, leases};

/// Newcomers between the reading of the node's counters and of the baseline's: one at each end.
const AT_THE_ENDS: u64 = 2;
/// Newcomers that may be connected at either end: two come a second, and each takes up to four to attach, if the node
/// waits for a home that has left.
const THERE: u64 = 8;

/// The counts of all sides.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    /// The attacker's counts.
    pub attacker: &'a BTreeMap<String, u64>,
    /// By how much each of the node's counters has grown since before the attack.
    pub grown: &'a BTreeMap<String, f64>,
    /// The baseline's counts, of the same period.
    pub baseline: &'a Observed,
    /// Connections that the kernel dropped after they were open at the attacker.
    pub dropped: u64,
}

/// One comparison of two sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What is compared.
    pub what: String,
    /// The least that the attacker and the baseline expect.
    pub least: u64,
    /// The most that they expect.
    pub most: u64,
    /// The node's count.
    pub node: u64,
}

impl Account {
    /// Whether the two sides agree.
    pub fn balances(&self) -> bool {
        (self.least..=self.most).contains(&self.node)
    }
}

impl Ledger<'_> {
    /// All accounts that aren't zero on both sides.
    pub fn accounts(&self) -> Vec<Account> {
        let mut accounts = self.of_clients();
        accounts.extend(self.of_links());
        accounts.retain(|account| account.most > 0 || account.node > 0);
        accounts
    }

    fn of_clients(&self) -> Vec<Account> {
        // Answers that the attacker may not have received: the connection broke before, or the attacker's time was
        // over.
        let is_broken = self.counted("reset") + self.counted("ended without a word") > 0;
        // A request to pair that was shown to its target has no other answer.
        let shown = self.counted("answered pair_incoming");
        let unheard = self.counted("unanswered at the end").saturating_sub(shown)
            + self.counted("not written by the end")
            + if is_broken { self.counted("cut off") } else { 0 };
        let answered = self.sum("answered ");
        let silent = self.counted("cut off") + self.counted("not refused by the end");
        // A request that was shown, and whose requester was cut off, is counted twice.
        let both = shown.min(self.counted("cut off"));
        let sent = self.counted("sent to it");
        let mut accounts = vec![account("messages answered or cut off", sent, both, answered + silent)];
        // A connection either becomes a session or is counted among those that didn't. The kernel may have dropped a
        // connection that is open at the attacker, and the node may find one that the attacker has given up.
        let no_session = self.counted("connected") + self.counted("not opened");
        let slack = self.counted("not connected") + self.dropped;
        accounts.push(account(
            "connections that became no session",
            no_session.saturating_sub(self.dropped),
            slack,
            self.grown("connections_refused_total") + self.grown("client_handshakes_failed_total"),
        ));
        let opened = self.counted("opened") + self.baseline.came - self.baseline.not_let_in;
        let slack = AT_THE_ENDS * 2 + self.counted("not opened") + self.baseline.not_let_in;
        let least = opened.saturating_sub(AT_THE_ENDS);
        accounts.push(account("sessions opened", least, slack, self.grown("sessions_opened_total")));
        let closed = self.grown("sessions_closed_total");
        let all_opened = self.grown("sessions_opened_total").saturating_sub(THERE);
        accounts.push(account("sessions ended", all_opened, THERE * 2, closed));
        // Pings are answered by pongs until the connection is closed, which counts as a refusal.
        let pings = if self.counted("answered pong") > 0 { self.counted("closed with 1008") } else { 0 };
        // A client that doesn't read is closed with code 1013 and no other, and finds it when it reads at the end.
        let (deaf, slow) = (self.counted("clients that don't read"), self.counted("closed with 1013"));
        let unseen = self.counted("reset") + self.counted("ended without a word");
        accounts.push(account("sessions too slow", slow, unseen, self.grown("sessions_slow_total")));
        if deaf > 0 {
            accounts.push(account("clients that don't read", deaf, 0, slow));
        }
        for code in
            ["bad_message", "unknown_type", "too_large", "peer_offline", "congested", "rate_limited", "bad_lease"]
        {
            let pings = if code == "rate_limited" { pings } else { 0 };
            let answered =
                self.counted(&format!("answered {code}")) + self.counted(&format!("rejected {code}")) + pings;
            let node = self.grown(&format!("refused_total{{code=\"{code}\"}}"));
            // An answer that wasn't received may have been about all leases of a message.
            let leases = self.counted("leases to attach").div_ceil(sent.max(1)).max(1);
            let put_off = if code == "congested" { self.baseline.put_off } else { 0 };
            accounts.push(account(code, answered + put_off, unheard * leases, node));
        }
        // None of these leases may be attached.
        let (leases, refused) =
            (self.counted("leases to attach"), sent.saturating_sub(self.counted("answered attached")));
        let judged = self.sum("rejected ") + refused * leases.div_ceil(sent.max(1));
        if leases > 0 {
            accounts.push(account("leases rejected, one by one or with their message", leases, 0, judged));
        }
        let slack = self.counted("reset")
            + self.counted("ended without a word")
            + self.counted("connections not refused by the end");
        accounts.push(account("breaches", self.counted("closed for a breach"), slack, self.grown("violations_total")));
        // Requests of clients; those of nodes are below.
        if self.counted("pair requests sent") == 0 {
            let refused = self.counted("answered pair_error");
            accounts.push(account(
                "requests to pair refused",
                refused,
                unheard,
                self.grown("pair_requests_refused_total"),
            ));
        }
        accounts
    }

    fn of_links(&self) -> Vec<Account> {
        let (breaches, unanswered) = (self.counted("links ended for a breach"), self.counted("unanswered by the node"));
        let unanswered_leases = self.grown("responses_dropped_total") * leases::BATCH;
        let unawaited = if breaches == 0 { self.counted("words of displaced leases sent") } else { 0 }
            + self.counted("outcomes of nothing sent");
        let mut accounts = vec![
            account("links", self.counted("linked"), 0, self.grown("links_opened_total")),
            // The last one may be in flight.
            account("breaches of links", breaches, unanswered.min(1), self.grown("link_protocol_errors_total")),
            // Requests whose answer was dropped are counted, too.
            account(
                "leases refused",
                self.counted("leases refused"),
                unanswered_leases,
                self.grown("leases_refused_total"),
            ),
            account(
                "requests refused",
                self.counted("told request refused"),
                self.grown("responses_dropped_total"),
                self.grown("requests_refused_total"),
            ),
            account("words that nobody waited for", unawaited, 0, self.grown("responses_unexpected_total")),
        ];
        if breaches > 0 {
            // All links, except one opened at the end: a first breach ends a link.
            let all = self.counted("linked");
            accounts.push(account("links ended for a breach", all.saturating_sub(1), 1, breaches));
        }
        // After a breach nothing is answered.
        if breaches == 0 && self.counted("linked") > 0 {
            let dropped = self.grown("responses_dropped_total") + self.grown("session_messages_dropped_total");
            let served = self.sum("told ") + self.baseline.asked + dropped;
            // Messages without an answer may be dropped, too. Their senders send only requests besides, which the
            // node answers at once.
            let slack = self.counted("words without an answer sent");
            accounts.push(account(
                "frames answered, shown, or dropped",
                self.counted("sent over a link"),
                slack,
                served,
            ));
            // A refusal is counted when it is made, even if its answer is lost.
            let unwritten = self.counted("pair requests that may not be written");
            let requests = self.counted("pair requests sent").saturating_sub(unwritten);
            let node = self.grown("pair_requests_refused_total") + self.baseline.asked;
            if self.counted("pair requests sent") > 0 {
                accounts.push(account("pair requests refused or shown", requests, unwritten, node));
            }
            let leases = self.counted("leases kept")
                + self.counted("leases refused")
                + self.counted("leases older than what is kept")
                + self.counted("told request refused") * leases::BATCH
                + unanswered_leases;
            accounts.push(account("leases judged", self.counted("leases sent"), 0, leases));
        }
        accounts
    }

    fn counted(&self, what: &str) -> u64 {
        self.attacker.get(what).copied().unwrap_or(0)
    }

    fn sum(&self, beginning: &str) -> u64 {
        self.attacker.iter().filter(|(what, _)| what.starts_with(beginning)).map(|(_, count)| count).sum()
    }

    /// The growth of all counters whose names begin with this, over all labels.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole, and grow")]
    fn grown(&self, beginning: &str) -> u64 {
        self.grown.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, grown)| *grown as u64).sum()
    }
}

fn account(what: &str, least: u64, slack: u64, node: u64) -> Account {
    Account { what: what.to_owned(), least, most: least + slack, node }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(counted: &[(&str, u64)], grown: &[(&str, f64)], dropped: u64) -> Vec<String> {
        let counted = counted.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
        let grown = grown.iter().map(|(name, grown)| ((*name).to_owned(), *grown)).collect();
        let baseline = Observed { came: 4, asked: 2, ..Observed::default() };
        let ledger = Ledger { attacker: &counted, grown: &grown, baseline: &baseline, dropped };
        ledger.accounts().into_iter().filter(|account| !account.balances()).map(|account| account.what).collect()
    }

    /// The attacker sent the requests to pair that were shown to the baseline.
    const SHOWN: (&str, u64) = ("sent over a link", 2);
    const NEWCOMERS: (&str, f64) = ("sessions_opened_total", 4.0);
    const GONE: (&str, f64) = ("sessions_closed_total", 4.0);

    #[test]
    fn messages_that_the_node_drops_without_counting_are_found() {
        let counted = [("sent to it", 10), ("answered rate_limited", 7), ("cut off", 3), SHOWN];
        let limited = |count| ("refused_total{code=\"rate_limited\"}", count);
        assert_eq!(wrong(&counted, &[limited(7.0), NEWCOMERS, GONE], 0), Vec::<String>::new());
        assert_eq!(wrong(&counted, &[limited(6.0), NEWCOMERS, GONE], 0), ["rate_limited"]);
        let counted = [("sent to it", 10), ("answered rate_limited", 7), SHOWN];
        assert_eq!(wrong(&counted, &[limited(7.0), NEWCOMERS, GONE], 0), ["messages answered or cut off"]);
    }

    #[test]
    fn a_connection_that_is_in_no_count_is_found_unless_the_kernel_dropped_it() {
        let counted = [("connected", 10), SHOWN];
        let grown = [("connections_refused_total", 4.0), ("client_handshakes_failed_total", 5.0), NEWCOMERS, GONE];
        assert_eq!(wrong(&counted, &grown, 0), ["connections that became no session"]);
        assert_eq!(wrong(&counted, &grown, 1), Vec::<String>::new());
    }

    #[test]
    fn one_client_that_does_not_read_and_is_not_closed_for_it_is_found() {
        let counted = |closed| [("clients that don't read", 10), ("closed with 1013", closed), SHOWN];
        let grown = |slow| [("sessions_slow_total", slow), NEWCOMERS, GONE];
        assert_eq!(wrong(&counted(10), &grown(10.0), 0), Vec::<String>::new());
        assert_eq!(wrong(&counted(9), &grown(9.0), 0), ["clients that don't read"]);
        assert_eq!(wrong(&counted(10), &grown(11.0), 0), ["sessions too slow"]);
    }

    #[test]
    fn frames_of_a_hostile_node_are_answered_shown_or_dropped_and_counted() {
        let counted = [("linked", 1), ("sent over a link", 10), ("told not here", 5), ("told closed", 2)];
        let grown =
            |dropped| [("links_opened_total", 1.0), ("session_messages_dropped_total", dropped), NEWCOMERS, GONE];
        assert_eq!(wrong(&counted, &grown(1.0), 0), Vec::<String>::new());
        assert_eq!(wrong(&counted, &grown(0.0), 0), ["frames answered, shown, or dropped"]);
    }

    #[test]
    fn an_unaccounted_pair_request_of_a_node_is_found_despite_other_drops() {
        let counted = |unwritten| {
            [
                ("linked", 1),
                ("sent over a link", 9),
                ("pair requests sent", 9),
                ("told pair request refused", 5),
                ("pair requests that may not be written", unwritten),
            ]
        };
        let grown = |refused| {
            [
                ("links_opened_total", 1.0),
                ("session_messages_dropped_total", 2.0),
                ("pair_requests_refused_total", refused),
                NEWCOMERS,
                GONE,
            ]
        };
        assert_eq!(wrong(&counted(0), &grown(7.0), 0), Vec::<String>::new());
        assert_eq!(wrong(&counted(0), &grown(6.0), 0), ["pair requests refused or shown"]);
        assert_eq!(wrong(&counted(1), &grown(6.0), 0), Vec::<String>::new());
    }

    #[test]
    fn a_link_that_goes_on_after_a_breach_is_found_but_for_the_last() {
        let counted = |ended| [("linked", 5), ("links ended for a breach", ended), SHOWN];
        let grown = |ended| [("links_opened_total", 5.0), ("link_protocol_errors_total", ended), NEWCOMERS, GONE];
        assert_eq!(wrong(&counted(4), &grown(4.0), 0), Vec::<String>::new());
        assert_eq!(wrong(&counted(3), &grown(3.0), 0), ["links ended for a breach"]);
    }
}
