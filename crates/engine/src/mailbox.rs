//! Messages to a shard from other threads: a bounded queue and a waker.

use fourfold_sys::Errno;
use fourfold_sys::epoll::Waker;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Messages that may wait for one shard. Senders see a full queue as an error; nothing on a data path waits for it.
pub const MAIL_QUEUED_MAX: usize = 4096;

pub struct Mailbox<M> {
    waker: Waker,
    queue: Receiver<M>,
}

pub struct Sender<M> {
    waker: Waker,
    queue: SyncSender<M>,
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { waker: self.waker.clone(), queue: self.queue.clone() }
    }
}

/// Made before the shard's thread, whose descriptor table then holds a copy of the waker.
pub fn mailbox<M>() -> Result<(Sender<M>, Mailbox<M>), Errno> {
    let waker = Waker::new()?;
    let (sender, queue) = sync_channel(MAIL_QUEUED_MAX);
    Ok((Sender { waker: waker.clone(), queue: sender }, Mailbox { waker, queue }))
}

impl<M> Sender<M> {
    /// The message comes back when the shard is gone or does not keep up.
    pub fn send(&self, mail: M) -> Result<(), M> {
        self.queue.try_send(mail).map_err(|error| match error {
            TrySendError::Full(mail) | TrySendError::Disconnected(mail) => mail,
        })?;
        self.waker.wake();
        Ok(())
    }
}

impl<M> Mailbox<M> {
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
    pub fn take(&self) -> Option<M> {
        self.queue.try_recv().ok()
    }
}
