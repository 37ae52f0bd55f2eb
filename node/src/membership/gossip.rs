//! A packet of the SWIM library, taken apart before the library sees it.
//!
//! The layout is foca 2.0's with its postcard codec: a header; the number of updates (two bytes, big endian) and the
//! updates, in all but broadcasts; then items, each with its length in two bytes, big endian, in front.

use foca::{Header, Member, Message};

use super::member::MemberId;

/// A packet's parts.
#[derive(Debug)]
pub struct Gossip<'a> {
    /// Who sends what to whom.
    pub header: Header<MemberId>,
    /// What the sender says of third parties.
    pub updates: Vec<Member<MemberId>>,
    /// The news that travel along.
    pub items: Vec<&'a [u8]>,
}

/// Not a packet of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a packet of the membership library")]
pub struct BadGossip;

impl<'a> Gossip<'a> {
    /// The parts of a packet, all of it.
    ///
    /// # Errors
    /// It is none. Its length bounds how much there can be of anything.
    pub fn decode(packet: &'a [u8]) -> Result<Self, BadGossip> {
        let (header, mut rest) = postcard::take_from_bytes::<Header<MemberId>>(packet).map_err(|_| BadGossip)?;
        let mut updates = Vec::new();
        if !rest.is_empty() && header.message != Message::Broadcast {
            let count = take_u16(&mut rest)?;
            for _ in 0..count {
                let (update, after) = postcard::take_from_bytes(rest).map_err(|_| BadGossip)?;
                updates.push(update);
                rest = after;
            }
        }
        let mut items = Vec::new();
        while !rest.is_empty() {
            let len = usize::from(take_u16(&mut rest)?);
            if len == 0 {
                return Err(BadGossip);
            }
            let (item, after) = rest.split_at_checked(len).ok_or(BadGossip)?;
            items.push(item);
            rest = after;
        }
        Ok(Self { header, updates, items })
    }
}

fn take_u16(rest: &mut &[u8]) -> Result<u16, BadGossip> {
    let (bytes, after) = rest.split_first_chunk::<2>().ok_or(BadGossip)?;
    *rest = after;
    Ok(u16::from_be_bytes(*bytes))
}
