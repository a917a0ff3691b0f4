//! One session with a BMC, and the right to have it.

use super::Inner;
use crate::error::Error;
use crate::ipmi::commands::{self, Control, Request};
use crate::ipmi::machine::{Answer, Event, Failure};
use crate::ipmi::net::Connection;
use crate::ipmi::packet::Completion;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// A session, and the turn. It is closed in the background when it is dropped.
pub(super) struct Turn {
    pub(super) connection: Option<Connection>,
    pub(super) turn: Option<OwnedMutexGuard<Option<Duration>>>,
    pub(super) address: SocketAddr,
    pub(super) inner: Arc<Inner>,
}

impl Turn {
    /// Begins a session, after the rest that the BMC is due.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        if let Some(last) = self.turn.as_deref().copied().flatten() {
            let due = last + self.inner.options.cool_down;
            tokio::time::sleep(due.saturating_sub(self.inner.hub.now())).await;
        }
        let opened = self.open().await;
        if let Err(error) = &opened {
            self.inner.failed(error);
        }
        opened
    }

    async fn open(&mut self) -> Result<(), Error> {
        let connection = self
            .connection
            .insert(self.inner.hub.connect(self.address, self.inner.config())?);
        while let Some(event) = connection.next().await? {
            match event {
                Event::Up(known) => {
                    self.inner.succeeded(known);
                    return Ok(());
                }
                Event::Failed(failure) => return Err(self.inner.session_error(failure)),
                _ => {}
            }
        }
        Err(self
            .inner
            .session_error(Failure::Silent("the beginning of a session")))
    }

    /// Closes the session and keeps the turn.
    pub(super) async fn end(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close().await;
        }
    }

    /// None: it was not repeatable, and no answer came.
    async fn request(&mut self, request: Request) -> Result<Option<Answer>, Error> {
        let name = request.name;
        let gone = |inner: &Inner| inner.session_error(Failure::Silent(name));
        let Some(connection) = &mut self.connection else {
            return Err(gone(&self.inner));
        };
        let now = connection.now();
        let wanted = connection.session.request(request, now);
        loop {
            match connection.next().await? {
                Some(Event::Answered { id, answer }) if id == wanted => return Ok(answer),
                Some(Event::Failed(failure)) => {
                    let error = self.inner.session_error(failure);
                    self.inner.failed(&error);
                    return Err(error);
                }
                Some(_) => {}
                None => return Err(gone(&self.inner)),
            }
        }
    }

    /// Asks something that may be asked twice.
    pub(super) async fn ask(&mut self, request: Request) -> Result<Vec<u8>, Error> {
        let name = request.name;
        match self.request(request).await? {
            Some(answer) if answer.completion == Completion::OK => Ok(answer.data),
            Some(answer) => Err(Error::Refused {
                address: self.address,
                command: name,
                completion: answer.completion,
            }),
            None => Err(self.inner.session_error(Failure::Silent(name))),
        }
    }

    pub(super) async fn is_on(&mut self) -> Result<bool, Error> {
        let data = self.ask(commands::chassis_status()).await?;
        self.read("Get Chassis Status", &data, commands::is_on(&data))
    }

    pub(super) fn read<T>(
        &self,
        command: &'static str,
        data: &[u8],
        read: Option<T>,
    ) -> Result<T, Error> {
        read.ok_or(Error::Answer {
            address: self.address,
            command,
            length: data.len(),
        })
    }

    /// Switches, once. False: no answer came, and it may have happened.
    pub(super) async fn control(&mut self, control: Control) -> Result<bool, Error> {
        let name = "Chassis Control";
        let answer = self.request(commands::chassis_control(control)).await;
        if let Some(turn) = &mut self.turn {
            **turn = Some(self.inner.hub.now());
        }
        match answer? {
            None => Ok(false),
            Some(answer) if answer.completion == Completion::OK => Ok(true),
            Some(answer) => Err(Error::Refused {
                address: self.address,
                command: name,
                completion: answer.completion,
            }),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (Some(mut connection), Ok(runtime)) = (
            self.connection.take(),
            tokio::runtime::Handle::try_current(),
        ) else {
            return;
        };
        // The next one has its turn when the BMC has let this one go.
        let turn = self.turn.take();
        runtime.spawn(async move {
            connection.close().await;
            drop(turn);
        });
    }
}
