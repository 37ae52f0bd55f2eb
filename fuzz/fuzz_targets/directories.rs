//! Lists of nodes: directories, shards, and the files of what was known.
#![no_main]

chappe_fuzz::fuzz!(
    chappe_common::fuzzing::DIRECTORY,
    chappe_common::fuzzing::BUNDLE,
    chappe_common::fuzzing::SHARD,
    chappe_common::fuzzing::SHARD_BUNDLE,
    chappe_common::fuzzing::SHARD_TEXT,
    chappe_node::fuzzing::KNOWN,
    chappe_discovery::fuzzing::CACHE,
);
