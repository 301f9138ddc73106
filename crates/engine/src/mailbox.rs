//! Messages to a shard from other threads: a bounded queue and a waker.

use fourfold_sys::Errno;
use fourfold_sys::epoll::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, channel};

/// Messages that may wait for one shard. Senders see a full queue as an error; nothing on a data path waits for it.
pub const MAIL_QUEUED_MAX: usize = 4096;

pub struct Mailbox<M> {
    waker: Waker,
    queue: Receiver<M>,
    queued: Arc<AtomicUsize>,
}

pub struct Sender<M> {
    waker: Waker,
    queue: mpsc::Sender<M>,
    /// Counted here: a channel with a bound of its own takes memory for all that may wait, and a shard has none waiting.
    queued: Arc<AtomicUsize>,
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { waker: self.waker.clone(), queue: self.queue.clone(), queued: Arc::clone(&self.queued) }
    }
}

/// Made before the shard's thread, whose descriptor table then holds a copy of the waker.
pub fn mailbox<M>() -> Result<(Sender<M>, Mailbox<M>), Errno> {
    let waker = Waker::new()?;
    let ((sender, queue), queued) = (channel(), Arc::new(AtomicUsize::new(0)));
    let sender = Sender { waker: waker.clone(), queue: sender, queued: Arc::clone(&queued) };
    Ok((sender, Mailbox { waker, queue, queued }))
}

impl<M> Sender<M> {
    /// The message comes back when the shard is gone or does not keep up.
    pub fn send(&self, mail: M) -> Result<(), M> {
        if self.queued.fetch_add(1, Ordering::Relaxed) >= MAIL_QUEUED_MAX {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(mail);
        }
        if let Err(gone) = self.queue.send(mail) {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(gone.0);
        }
        self.waker.wake();
        Ok(())
    }
}

impl<M> Mailbox<M> {
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
    pub fn take(&self) -> Option<M> {
        let mail = self.queue.try_recv().ok()?;
        self.queued.fetch_sub(1, Ordering::Relaxed);
        Some(mail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_and_one_of_a_shard_that_is_gone_give_the_mail_back() {
        let (sender, mailbox) = mailbox().unwrap();
        let filled = (0..).find(|n| sender.send(*n).is_err());
        assert_eq!(filled, Some(MAIL_QUEUED_MAX));
        assert_eq!(mailbox.take(), Some(0));
        assert_eq!(sender.send(9), Ok(()));
        drop(mailbox);
        assert_eq!(sender.send(7), Err(7));
    }
}
