//! TCP connections to peers: every address of a name is tried, within one deadline.

use crate::files::plain;
use rustix::net::sockopt;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Silence on a kept connection before the kernel asks whether the peer is still there, between its questions, and how
/// many go unanswered: a half-open connection is found in two minutes, and a firewall keeps its entry for a kept one.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_BETWEEN: Duration = Duration::from_secs(10);
const KEEP_ALIVE_COUNT: u32 = 6;

/// How a peer is named in messages: `"host:port"`, with brackets around an IPv6 address.
pub fn address(server: &str, port: u16) -> String {
    if server.contains(':') { format!("[{server}]:{port}") } else { format!("{server}:{port}") }
}

/// Connects to the first address of a name that answers. Sent bytes that stay unacknowledged for `silence` end the
/// connection.
///
/// The look-up of the name is bounded by the resolver's own settings (`resolv.conf`), not by `deadline`.
///
/// # Errors
/// Why, without naming the peer.
pub fn connect(server: &str, port: u16, silence: Duration, deadline: Instant) -> Result<TcpStream, String> {
    let addresses: Vec<_> = (server, port)
        .to_socket_addrs()
        .map_err(|error| format!("its name could not be looked up: {}", plain(&error)))?
        .collect();
    let mut reason = "its name has no address".to_owned();
    for (n, address) in addresses.iter().enumerate() {
        // An address that answers nothing leaves the others their share of the time.
        let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - n) as u32;
        if share.is_zero() {
            return Err("timed out".to_owned());
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => {
                watch(&stream, silence);
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => reason = "timed out".to_owned(),
            Err(error) => reason = plain(&error),
        }
    }
    Err(reason)
}

/// A system without one of these options still delivers, with slower news of a dead peer.
fn watch(stream: &TcpStream, silence: Duration) {
    let milliseconds = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_BETWEEN);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_COUNT);
    let _ = sockopt::set_tcp_user_timeout(stream, milliseconds);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!(address("pacs", 22), "pacs:22");
        assert_eq!(address("::1", 22), "[::1]:22");
    }

    #[test]
    fn a_closed_port_is_refused_with_the_system_s_words() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let deadline = Instant::now() + Duration::from_secs(5);
        let reason = connect("127.0.0.1", port, Duration::from_secs(1), deadline).unwrap_err();
        assert_eq!(reason, "connection refused");
    }

    #[test]
    fn a_name_without_an_address_is_said_to_be_one() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let reason = connect("no-such-host.invalid", 1, Duration::from_secs(1), deadline).unwrap_err();
        assert!(reason.starts_with("its name could not be looked up: "), "{reason}");
    }
}
