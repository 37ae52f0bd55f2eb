//! Signed notes, inside their signature and outside; and names.
#![no_main]

chappe_fuzz::fuzz!(
    chappe_common::fuzzing::RECORD,
    chappe_common::fuzzing::SIGNED_RECORD,
    chappe_common::fuzzing::LEAVE,
    chappe_common::fuzzing::SIGNED_LEAVE,
    chappe_common::fuzzing::REMOVAL,
    chappe_common::fuzzing::REVOCATION,
    chappe_common::fuzzing::REVOCATIONS,
    chappe_common::fuzzing::SIGNED_REVOCATION,
    chappe_common::fuzzing::SIGNED_REMOVAL,
    chappe_common::fuzzing::LIST_REQUEST,
    chappe_common::fuzzing::SIGNED_LIST_REQUEST,
    chappe_common::fuzzing::REACHABILITY,
    chappe_common::fuzzing::SIGNED_REACHABILITY,
    chappe_common::fuzzing::TICKET,
    chappe_common::fuzzing::SIGNED_TICKET,
    chappe_common::fuzzing::TICKET_CHAIN,
    chappe_common::fuzzing::GRANT,
    chappe_common::fuzzing::SIGNED_GRANT,
    chappe_common::fuzzing::BEACON,
    chappe_common::fuzzing::SIGNED_BEACON,
    chappe_common::fuzzing::DELEGATION_NOTE,
    chappe_common::fuzzing::NAME,
    chappe_node::fuzzing::ACCUSATION,
);
