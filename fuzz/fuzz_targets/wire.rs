//! What nodes say to each other.
#![no_main]

chappe_fuzz::fuzz!(
    chappe_node::fuzzing::LINK_FRAME,
    chappe_node::fuzzing::HELLO,
    chappe_node::fuzzing::EXCHANGE,
    chappe_node::fuzzing::PACKET,
    chappe_node::fuzzing::GOSSIP,
    chappe_node::fuzzing::NEWS,
    chappe_node::fuzzing::CHECK_REQUEST,
    chappe_node::fuzzing::CHECK_REPLY,
);
