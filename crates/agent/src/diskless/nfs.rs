//! A root over NFSv3: all of it is done by the kernel (nfs(5); `fs/nfs/fs_context.c`).

use std::net::SocketAddrV4;

/// What is mounted.
pub(super) fn source(server: SocketAddrV4, path: &str) -> String {
    format!("{}:{path}", server.ip())
}

/// Options for the kernel, which asks no portmapper and resolves no name: MOUNT and NFS are on the same
/// port. `hard`: while the server is away programs wait, and see no errors. `nolock`: locks stay on this
/// machine, which is the only one with this root.
pub(super) fn options(server: SocketAddrV4) -> String {
    let (ip, port) = (server.ip(), server.port());
    format!(
        "vers=3,proto=tcp,port={port},mountvers=3,mountproto=tcp,mountport={port},mountaddr={ip},\
         addr={ip},hard,nolock"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_everything_by_number() {
        let server = "10.0.0.1:2050".parse().unwrap();
        assert_eq!(source(server, "/d3"), "10.0.0.1:/d3");
        let options = options(server);
        for part in ["port=2050", "mountport=2050", "addr=10.0.0.1", "nolock"] {
            assert!(options.split(',').any(|option| option == part), "{part}");
        }
    }
}
