//! Which external address the relay believes: what members of different networks see. Pure.
//!
//! A member may lie. So one member alone decides nothing, and an address that any member still sees is kept.

use std::net::IpAddr;

/// Members asked in a round.
pub(crate) const ASKED: usize = 3;

/// Members that must see the same address.
const AGREEING: usize = 2;

/// Rounds in a row in which members must see another address, and none the adopted one, before it is replaced. With one
/// liar in ten members, two rounds adopt a false address in place of a true one once in a million rounds.
const ROUNDS: u8 = 2;

/// The external address of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExternalAddress {
    adopted: Option<IpAddr>,
    /// Another address that members saw, and in how many rounds in a row.
    candidate: Option<(IpAddr, u8)>,
}

impl ExternalAddress {
    pub(crate) const fn adopted(&self) -> Option<IpAddr> {
        self.adopted
    }

    /// Handles the addresses that up to [`ASKED`] members saw, each in a different network. Returns a newly adopted address.
    pub(crate) fn handle_round(&mut self, seen: &[IpAddr]) -> Option<IpAddr> {
        let votes = |ip: IpAddr| seen.iter().filter(|one| **one == ip).count();
        let agreed = seen.iter().copied().find(|ip| votes(*ip) >= AGREEING);
        let is_confirmed = self.adopted.is_some_and(|adopted| votes(adopted) > 0);
        let Some(agreed) = agreed.filter(|_| !is_confirmed) else {
            self.candidate = None;
            return None;
        };
        let rounds = match self.candidate {
            Some((candidate, rounds)) if candidate == agreed => rounds + 1,
            _ => 1,
        };
        if self.adopted.is_some() && rounds < ROUNDS {
            self.candidate = Some((agreed, rounds));
            return None;
        }
        (self.adopted, self.candidate) = (Some(agreed), None);
        self.adopted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9));
    const FALSE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8));
    const NEW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 10));

    #[test]
    fn one_member_alone_is_not_believed() {
        let mut external = ExternalAddress::default();
        for seen in [&[][..], &[OWN], &[FALSE, OWN], &[FALSE, OWN, NEW]] {
            assert_eq!(external.handle_round(seen), None, "{seen:?}");
        }
        assert_eq!(external.handle_round(&[FALSE, OWN, OWN]), Some(OWN));
        assert_eq!(external.handle_round(&[OWN, OWN, OWN]), None, "it is known");
    }

    #[test]
    fn liars_do_not_replace_an_address_that_an_honest_member_sees() {
        let mut external = ExternalAddress::default();
        external.handle_round(&[OWN, OWN]);
        for _ in 0..100 {
            assert_eq!(external.handle_round(&[FALSE, FALSE, OWN]), None);
        }
        // Three liars by chance, once.
        assert_eq!(external.handle_round(&[FALSE, FALSE, FALSE]), None);
        assert_eq!(external.handle_round(&[FALSE, FALSE, OWN]), None);
        assert_eq!(external.handle_round(&[FALSE, FALSE, FALSE]), None);
        assert_eq!(external.adopted(), Some(OWN));
    }

    #[test]
    fn an_address_that_changes_is_replaced_after_two_rounds() {
        let mut external = ExternalAddress::default();
        external.handle_round(&[OWN, OWN]);
        assert_eq!(external.handle_round(&[NEW, NEW, FALSE]), None);
        assert_eq!(external.handle_round(&[]), None, "no answer interrupts");
        assert_eq!(external.handle_round(&[NEW, NEW]), None);
        assert_eq!(external.handle_round(&[NEW, FALSE, NEW]), Some(NEW));
    }
}
