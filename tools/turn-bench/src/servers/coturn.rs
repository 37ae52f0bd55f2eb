//! coturn, with one relay thread.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use chappe_harness::{cores, process::Process};
use chappe_turn::credentials::REALM;
use stun_types::message::{BINDING, Message, MessageWrite as _, MessageWriteVec};

use super::{Listening, RELAY_PORTS, SECRET, bound_command_on};

const PROGRAM: &str = "turnserver";

/// Attempts to reach it after its start, ten a second.
const ATTEMPTS: u32 = 100;

pub(super) fn is_installed() -> bool {
    let version = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok()
}

/// Starts it. Its database is made in `dir`.
pub(super) async fn start(ip: Ipv4Addr, dir: &Path) -> (Process, Listening) {
    // It uses the same port for UDP and TCP, and does not choose one by itself. The address is of this server alone.
    let addr = SocketAddrV4::new(ip, 3478);
    let mut command = bound_command_on(cores::SERVERS, PROGRAM);
    command.args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--relay-threads=1", "--allow-loopback-peers"]);
    command.args(["--use-auth-secret", "--static-auth-secret", SECRET, "--realm", REALM]);
    command.args(["--listening-ip", &ip.to_string(), "--relay-ip", &ip.to_string()]);
    command.args(["--listening-port", &addr.port().to_string()]);
    command.args(["--min-port", &RELAY_PORTS.start().to_string(), "--max-port", &RELAY_PORTS.end().to_string()]);
    command.args(["--no-stdout-log", "--log-file", "/dev/null", "--simple-log", "--user-quota=0", "--total-quota=0"]);
    command.args(["--pidfile", "/dev/null", "--no-rfc5780", "--userdb"]).arg(dir.join("turndb"));
    command.stderr(Stdio::null());
    let process = Process::start_told(command);
    wait_for_answer(addr);
    (process, Listening { udp: addr, tcp: Some(addr), node: None })
}

fn wait_for_answer(addr: SocketAddrV4) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    for _ in 0..ATTEMPTS {
        let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
        let sent = socket.send_to(&request, addr);
        if sent.is_ok() && socket.recv(&mut [0; 1500]).is_ok() {
            return;
        }
    }
    panic!("coturn does not answer");
}
