//! How people and nodes find each other: links, tickets, codes, addresses, and the messages of a pairing.
#![no_main]

chappe_fuzz::fuzz!(
    chappe_discovery::fuzzing::INVITE,
    chappe_discovery::fuzzing::INVITE_TEXT,
    chappe_discovery::fuzzing::JOIN_LINK,
    chappe_discovery::fuzzing::NODE,
    chappe_common::fuzzing::TICKET_TEXT,
    chappe_client::fuzzing::CODE,
    chappe_client::fuzzing::NODES,
    chappe_client::fuzzing::PAIRING,
    chappe_client::fuzzing::IDENTITY,
);
