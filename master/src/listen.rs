//! The listening sockets. The master owns each for its whole life, so that connections wait in the backlog while a worker
//! restarts or is replaced, and none is refused.

use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Connections that wait while nobody accepts; the system's own limit (`net.core.somaxconn`) is the same on Debian 12.
const BACKLOG: i32 = 4096;

/// The open listeners, by address: a channel renamed keeps its own.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    open: BTreeMap<SocketAddr, OwnedFd>,
}

impl Listeners {
    /// Closes every listener that is not among `wanted`.
    pub(crate) fn keep_only(&mut self, wanted: impl Fn(&SocketAddr) -> bool) {
        self.open.retain(|address, _| wanted(address));
    }

    /// Opens a listener, where it is not open yet.
    pub(crate) fn open(&mut self, address: SocketAddr) -> io::Result<()> {
        if let Entry::Vacant(free) = self.open.entry(address) {
            free.insert(listener(address)?);
        }
        Ok(())
    }

    /// A second descriptor of a listener, for a worker.
    pub(crate) fn for_worker(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        self.open.get(&address).ok_or(io::ErrorKind::NotFound)?.try_clone()
    }
}

fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // Connections of the last master in TIME_WAIT would hold the port for a minute.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // `::` serves IPv4 too, whatever net.ipv6.bindv6only says; another address is what it says.
        sockopt::set_ipv6_v6only(&socket, address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    bind(&socket, &SocketAddrAny::from(address))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    /// Opens a listener at a port that was free a moment ago; another program may be quicker. `None` where the machine has
    /// no such addresses.
    fn open_some(listeners: &mut Listeners, ip: IpAddr) -> Option<SocketAddr> {
        for _ in 0..100 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = SocketAddr::new(ip, port);
            match listeners.open(address) {
                Ok(()) => return Some(address),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
                    return None;
                }
                Err(e) => panic!("{address}: {e}"),
            }
        }
        panic!("no port is free");
    }

    #[test]
    fn dual_stack_takes_both_families_and_a_connection_waits_for_a_worker() {
        let mut listeners = Listeners::default();
        // A machine without IPv6 has nothing to test here.
        let Some(address) = open_some(&mut listeners, Ipv6Addr::UNSPECIFIED.into()) else { return };
        let _waits = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
        let accepted = TcpListener::from(listeners.for_worker(address).unwrap()).accept();
        assert!(accepted.is_ok());
    }

    #[test]
    fn a_taken_port_is_an_error_and_a_kept_listener_is_the_same_socket() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut listeners = Listeners::default();
        let error = listeners.open(taken.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

        let address = open_some(&mut listeners, Ipv4Addr::LOCALHOST.into()).expect("IPv4 is there");
        let _waits = TcpStream::connect(address).unwrap();
        listeners.keep_only(|kept| *kept == address);
        listeners.open(address).unwrap();
        assert!(TcpListener::from(listeners.for_worker(address).unwrap()).accept().is_ok());
        listeners.keep_only(|_| false);
        assert!(listeners.for_worker(address).is_err());
        assert!(TcpStream::connect(address).is_err());
    }
}
