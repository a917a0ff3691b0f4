//! Ends a connection so that the client sees the last answer.
//!
//! A server that answers before it has read the whole request (a refused upload, a store that is full)
//! and closes has its kernel send a reset for what still comes, and the client's kernel throws away an
//! answer that was not read yet (RFC 9112, section 9.6). So the sending half is closed first, and what
//! comes is read and thrown away for a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a client may go on sending what nobody wants, and how long it may send nothing before it is
/// not waited for.
const LONGEST: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);

/// How much is thrown away in one go before others have their turn, in bytes.
const AT_ONCE: usize = 1 << 20;

/// A stream whose end lingers.
pub(crate) struct Lingering<S> {
    stream: S,
    /// Cancelled when the server stops: nobody is waited for then.
    stop: CancellationToken,
    closing: Option<Closing>,
}

struct Closing {
    /// The sending half is closed.
    is_closed: bool,
    latest: Instant,
    silence: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Closing {
    /// Whether the client is waited for no longer.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stopped.as_mut().poll(cx).is_ready() || self.silence.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl<S> Lingering<S> {
    pub(crate) fn new(stream: S, stop: CancellationToken) -> Self {
        Self {
            stream,
            stop,
            closing: None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lingering<S> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closing = self.closing.get_or_insert_with(|| {
            let now = Instant::now();
            Closing {
                is_closed: false,
                latest: now + LONGEST,
                silence: Box::pin(sleep_until(now + SILENCE)),
                stopped: Box::pin(self.stop.clone().cancelled_owned()),
            }
        });
        if !closing.is_closed {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            closing.is_closed = true;
        }
        let mut scrap = [0; 16 << 10];
        let mut thrown_away = 0;
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                // An error is an end like any other: the answer is sent.
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {
                    thrown_away += buffer.filled().len();
                    let next = closing.latest.min(Instant::now() + SILENCE);
                    closing.silence.as_mut().reset(next);
                    if thrown_away >= AT_ONCE {
                        cx.waker().wake_by_ref();
                        return closing.poll_over(cx);
                    }
                }
                Poll::Pending => return closing.poll_over(cx),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn what_still_comes_is_read_until_it_ends() {
        let (mut client, server) = duplex(1000);
        let end = tokio::spawn(async move {
            let mut server = Lingering::new(server, CancellationToken::new());
            server.write_all(b"507").await.unwrap();
            server.shutdown().await
        });
        client.write_all(&[7; 3 << 20]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "507");
        assert!(!end.is_finished());
        drop(client);
        end.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_without_end() {
        let ends = async |stop: CancellationToken| {
            let (client, server) = duplex(1000);
            let before = Instant::now();
            let mut server = Lingering::new(server, stop);
            server.shutdown().await.unwrap();
            drop(client);
            before.elapsed()
        };
        let silent = ends(CancellationToken::new()).await;
        assert!(silent >= SILENCE && silent < SILENCE * 2, "{silent:?}");
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(ends(stop).await, Duration::ZERO);

        let (mut client, server) = duplex(1000);
        let talking = tokio::spawn(async move {
            while client.write_all(&[1]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let before = Instant::now();
        let mut server = Lingering::new(server, CancellationToken::new());
        server.shutdown().await.unwrap();
        let took = before.elapsed();
        assert!(took >= LONGEST && took < LONGEST + SILENCE, "{took:?}");
        drop(server);
        talking.await.unwrap();
    }
}
