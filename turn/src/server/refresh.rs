//! Refresh (RFC 8656, 8).

use std::cmp::Reverse;

use stun_types::{
    attribute::{AttributeStaticType as _, AttributeType, ErrorCode},
    message::Message,
};
use turn_types::attribute::{Lifetime, RequestedAddressFamily};

use super::{
    RelayId, RelaySockets, Server,
    allocate::{family, lifetime, optional},
    authentication::User,
    check_known,
};
use crate::{
    client::Client,
    response::{self, Refusal},
    table::AllocationId,
    time::Now,
};

const KNOWN: [AttributeType; 2] = [Lifetime::TYPE, RequestedAddressFamily::TYPE];

impl Server {
    pub(super) fn refresh(
        &mut self,
        sockets: &mut impl RelaySockets,
        client: Client,
        message: &Message<'_>,
        user: &User,
        now: Now,
    ) -> Result<Vec<u8>, Refusal> {
        check_known(message, &KNOWN)?;
        let wanted = optional::<Lifetime>(message)?.map(|lifetime| lifetime.seconds());
        let is_end = wanted == Some(0);
        let family = family(message, RequestedAddressFamily::TYPE)?;
        let id = self.allocation_of(client, user)?;
        let allocation = self.table.get_mut(id).expect("just found");
        if family.is_some_and(|family| allocation.ports.get(family).is_none()) {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH.into());
        }
        let lifetime = if is_end { 0 } else { lifetime(wanted, user, now) };
        if is_end {
            match family {
                // The allocation keeps its other address.
                Some(family) if allocation.ports.is_dual() => {
                    self.close(sockets, RelayId { allocation: id, family });
                }
                _ => self.end(sockets, id),
            }
        } else {
            let expires = self.seconds(now).plus(lifetime);
            let generation = self.table.generation(id).expect("just found");
            let allocation = self.table.get_mut(id).expect("just found");
            allocation.expires = expires;
            if expires < allocation.checked_at {
                allocation.checked_at = expires;
                self.expiries.push(Reverse((expires, id, generation)));
                self.forget_old_expiries();
            }
        }
        Ok(response::success(message, &[&Lifetime::new(lifetime)], Some(&user.signer)))
    }

    /// Returns the allocation of a client, if it was made with this user's credential.
    pub(super) fn allocation_of(&self, client: Client, user: &User) -> Result<AllocationId, Refusal> {
        let id = self.table.find(&client).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let allocation = self.table.get(id).expect("the table has each id that it finds");
        if allocation.credential == user.credential { Ok(id) } else { Err(ErrorCode::WRONG_CREDENTIALS.into()) }
    }
}
