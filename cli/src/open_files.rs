//! How many files a daemon may have open at once: as many as the system allows, and what that leaves for connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files of a daemon that are no connections of strangers: its operator's connections and those beyond the bound that are
/// told so, its own to registries or a database, sockets, stores, certificates, and what the runtime takes.
const RESERVED: usize = 128;

/// The limit on this process's open files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles {
    limit: usize,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one.
    pub(crate) fn raise() -> Self {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Without a hard limit the kernel's own (fs.nr_open) is in the way; then what there is stays.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self { limit: usize::try_from(limit).unwrap_or(usize::MAX) }
    }

    /// How many connections fit in each of so many daemons of this process.
    pub(crate) fn room(self, daemons: usize) -> usize {
        (self.limit / daemons.max(1)).saturating_sub(RESERVED).max(1)
    }

    /// How many connections fit of those that `key` asks for, in the one daemon of this process. Says so where that is fewer.
    pub(crate) fn fit(self, key: &str, asked: usize) -> usize {
        let room = self.room(1);
        if asked > room {
            tracing::warn!(
                "{key} is {asked}, and this process may open {} files, {RESERVED} of them for other uses: it takes {room} \
                 connections. Let it open {} (LimitNOFILE= of systemd, ulimit -n), or lower the key",
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
    fn what_does_not_fit_is_cut_and_what_fits_is_not() {
        let files = OpenFiles { limit: 1024 };
        assert_eq!(files.fit("client.max_connections", 18_000), 896);
        assert_eq!(files.fit("client.max_connections", 896), 896);
        assert_eq!(files.room(2), 384);
        assert_eq!(OpenFiles { limit: 64 }.fit("client.max_connections", 10), 1);
    }
}
