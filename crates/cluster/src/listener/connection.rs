//! An accepted connection, as the gRPC server reads and writes it: it holds its places, and ends
//! when it is cut or its life is over.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::server::Connected;

use crate::Peer;
use crate::wire::Wire;

/// Who is connected; `None` without TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) peer: Option<Peer>,
}

pub(super) struct Accepted {
    wire: Wire,
    caller: Caller,
    ends: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    /// Given back when the connection is gone.
    _places: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Accepted {
    pub(super) fn new(
        wire: Wire,
        caller: Caller,
        places: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
        ends: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            wire,
            caller,
            ends: Box::pin(ends),
            ended: false,
            _places: places,
        }
    }

    fn check_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.ended && self.ends.as_mut().poll(cx).is_ready() {
            self.ended = true;
        }
        if self.ended {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Connected for Accepted {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_end(cx)?;
        Pin::new(&mut this.wire).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(cx)
    }
}
