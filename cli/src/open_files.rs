//! The limit of open files of a daemon: raises it as far as allowed, and derives the number of connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are not for clients: connections of the operator and for health checks, connections to registries or a
/// database, sockets, stores, certificates, and the runtime.
const RESERVED: usize = 128;

/// The limit on open files of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles {
    limit: usize,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one.
    pub(crate) fn raise() -> Self {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Ignore the error: without a hard limit, the kernel's own (fs.nr_open) applies, and the soft limit stays.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self { limit: usize::try_from(limit).unwrap_or(usize::MAX) }
    }

    /// Limits the number of allocations of the relay for media, which open `files_each` files each, to half of the files. Logs
    /// a warning if it is lower.
    pub(crate) fn limit_allocations(self, asked: usize, files_each: usize) -> usize {
        let room = self.limit / 2 / files_each;
        if asked > room {
            tracing::warn!(
                "turn.max_allocations is {asked}, but this process may open only {} files, half of which are for clients: the \
                 relay makes {room} allocations. Raise the limit (LimitNOFILE= of systemd, ulimit -n), or lower the key",
                self.limit,
            );
        }
        asked.min(room).max(1)
    }

    /// Subtracts files that another part of this process opens.
    pub(crate) const fn without(self, files: usize) -> Self {
        Self { limit: self.limit.saturating_sub(files) }
    }

    /// Number of connections for each of `daemons` daemons in this process.
    pub(crate) fn connections_per_daemon(self, daemons: usize) -> usize {
        (self.limit / daemons.max(1)).saturating_sub(RESERVED).max(1)
    }

    /// Limits the number of connections in `key` to what this process can open. Logs a warning if it is lower.
    pub(crate) fn limit_connections(self, key: &str, asked: usize) -> usize {
        let room = self.connections_per_daemon(1);
        if asked > room {
            tracing::warn!(
                "{key} is {asked}, but this process may open only {} files, {RESERVED} of which are reserved: it accepts {room} \
                                 connections. Raise the limit to {} (LimitNOFILE= of systemd, ulimit -n), or lower the key",
                self.limit,
                asked.saturating_add(RESERVED),
            );
        }
        asked.min(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_reduced_only_if_they_exceed_the_file_limit() {
        let files = OpenFiles { limit: 1024 };
        assert_eq!(files.limit_connections("client.max_connections", 18_000), 896);
        assert_eq!(files.limit_connections("client.max_connections", 896), 896);
        assert_eq!(files.connections_per_daemon(2), 384);
        assert_eq!((files.limit_allocations(2000, 2), files.limit_allocations(100, 2)), (256, 100));
        assert_eq!(files.without(96).limit_connections("client.max_connections", 896), 800);
        assert_eq!(OpenFiles { limit: 64 }.limit_connections("client.max_connections", 10), 1);
    }
}
