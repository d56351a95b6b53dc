//! The addresses of a process. Both are taken before anything is made on disk, so that a port which
//! somebody else has stops a start that has left nothing behind. The API's one is listened on only
//! when there is something to serve; until then clients are refused and not kept waiting.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// An address that this process has, and does not listen on yet.
pub(crate) struct Taken {
    socket: TcpSocket,
    setting: &'static str,
    address: SocketAddr,
}

impl Taken {
    /// Takes an address. `setting` names it in errors.
    ///
    /// # Errors
    /// The address is not ours, or somebody listens on it.
    pub(crate) fn take(setting: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let take = || -> std::io::Result<(TcpSocket, SocketAddr)> {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // A restart must not wait for connections of the process before.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let taken = socket.local_addr()?;
            Ok((socket, taken))
        };
        let (socket, address) =
            take().with_context(|| format!("{setting}: cannot listen on {address}"))?;
        Ok(Self {
            socket,
            setting,
            address,
        })
    }

    /// The address, with the port that the system chose for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// Another process took the address at the same moment.
    pub(crate) fn listen(self) -> anyhow::Result<TcpListener> {
        let (setting, address) = (self.setting, self.address);
        self.socket
            .listen(BACKLOG)
            .with_context(|| format!("{setting}: cannot listen on {address}"))
    }
}
