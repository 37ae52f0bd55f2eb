//! What a client hears, from nodes, contacts and name servers, and its own profile.
#![no_main]

chappe_fuzz::fuzz!(
    chappe_client::fuzzing::REPLY,
    chappe_client::fuzzing::MESSAGE,
    chappe_client::fuzzing::PAYLOAD,
    chappe_client::fuzzing::ENVELOPE,
    chappe_client::fuzzing::PADDING,
    chappe_client::fuzzing::PROFILE,
    chappe_discovery::fuzzing::REPLY,
    chappe_discovery::fuzzing::ANSWER,
    chappe_node::fuzzing::ACCEPTED,
    chappe_node::fuzzing::REFUSED,
);
