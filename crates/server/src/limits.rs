//! What the kernel allows this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that a server of a large site uses: a socket and a file for each machine that boots.
const PLENTY: u64 = 8192;

/// Raises the soft limit on open files to the hard one. The usual soft limit of 1024 is there for
/// programs that use `select(2)`, and a thousand machines that boot after a power cut reach it. Says
/// so where even the hard limit is low.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Both `None` mean "no limit".
    let most = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!("could not raise the limit on open files: {error}");
            limit.current
        }
    };
    match most {
        Some(most) if most < PLENTY => tracing::warn!(
            "this process may have no more than {most} files open: that is enough for about {} machines that \
             boot at once. Raise it with LimitNOFILE= in the service's unit, or `ulimit -n`",
            most / 2
        ),
        most => tracing::debug!(most, "open files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lowered = Rlimit {
            current: before.maximum.map_or(Some(256), |most| Some(most.min(256))),
            maximum: before.maximum,
        };
        setrlimit(Resource::Nofile, lowered).unwrap();
        raise_open_files();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.current, before.maximum);
        assert_eq!(after.maximum, before.maximum);
    }
}
