//! The bare network link to a guest: a few lines of Python that answer, send and take bytes over plain TCP, with no agent between.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A port that nothing else in the guest listens on.
const PORT: u16 = 7007;
const BLOCK: usize = 1 << 20;

/// An order is one letter and a length of eight bytes: `e` answers with a byte, `d` sends as much, `u` takes as much and answers
/// with a byte. It says that it listens on its standard output.
pub(crate) const SERVER: &str = r#"
import socket
block = bytearray(1 << 20)
server = socket.create_server(("0.0.0.0", 7007))
print("listening", flush=True)
while True:
    peer, _ = server.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while order := peer.recv(9, socket.MSG_WAITALL):
        left = int.from_bytes(order[1:], "big")
        while left and order[:1] == b"d":
            left -= peer.send(memoryview(block)[:left])
        while left and order[:1] == b"u":
            left -= peer.recv_into(block, min(left, len(block)))
        if order[:1] != b"d":
            peer.sendall(b".")
"#;

/// A connection to [`SERVER`].
pub(crate) struct Link {
    stream: TcpStream,
    block: Vec<u8>,
}

impl Link {
    pub(crate) async fn open(guest: Ipv4Addr) -> Result<Self> {
        let stream = TcpStream::connect((guest, PORT)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, block: vec![0; BLOCK] })
    }

    /// A byte there and a byte back.
    pub(crate) async fn echo(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.order(b'e', 0).await?;
        self.stream.read_u8().await?;
        Ok(started.elapsed())
    }

    /// Bytes from the guest.
    pub(crate) async fn down(&mut self, bytes: usize) -> Result<Duration> {
        let started = Instant::now();
        self.order(b'd', bytes).await?;
        let mut left = bytes;
        while left > 0 {
            let room = left.min(BLOCK);
            let got = self.stream.read(&mut self.block[..room]).await?;
            ensure!(got > 0, "the guest's end of the link is gone");
            left -= got;
        }
        Ok(started.elapsed())
    }

    /// Bytes to the guest, until it has them all.
    pub(crate) async fn up(&mut self, bytes: usize) -> Result<Duration> {
        let started = Instant::now();
        self.order(b'u', bytes).await?;
        let mut left = bytes;
        while left > 0 {
            let room = left.min(BLOCK);
            self.stream.write_all(&self.block[..room]).await?;
            left -= room;
        }
        self.stream.read_u8().await?;
        Ok(started.elapsed())
    }

    async fn order(&mut self, what: u8, bytes: usize) -> Result<()> {
        let mut order = [0; 9];
        order[0] = what;
        order[1..].copy_from_slice(&u64::try_from(bytes)?.to_be_bytes());
        Ok(self.stream.write_all(&order).await?)
    }
}
