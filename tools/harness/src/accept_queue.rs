//! Connections that the kernel dropped because the accept queue of a listening socket was full.

use std::{net::SocketAddr, process::Command};

/// How many connections were dropped at these sockets. Returns `None` without `ss`.
pub fn drops(addrs: &[SocketAddr]) -> Option<u64> {
    let output = Command::new("ss").args(["--listening", "--tcp", "--numeric", "--memory", "--no-header"]).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    Some(addrs.iter().map(|addr| drops_of(&text, &addr.to_string()).unwrap_or(0)).sum())
}

/// The drops of one socket in the output of `ss`. Its memory is printed after the socket, on the same or the next line.
fn drops_of(text: &str, addr: &str) -> Option<u64> {
    let (_, after) = text.split_once(&format!(" {addr} "))?;
    let (_, memory) = after.split_once("skmem:(")?;
    let (memory, _) = memory.split_once(')')?;
    memory.split(',').find_map(|field| field.strip_prefix('d')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drops_are_those_of_the_socket() {
        let text = "LISTEN 0 1024 127.0.0.1:80 0.0.0.0:*\n\t skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d3)\n\
                    LISTEN 0 1024 127.0.0.1:8080 0.0.0.0:* skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d0)\n";
        assert_eq!(drops_of(text, "127.0.0.1:80"), Some(3));
        assert_eq!(drops_of(text, "127.0.0.1:8080"), Some(0));
        assert_eq!(drops_of(text, "127.0.0.1:81"), None);
    }
}
