use std::fmt;

/// A kernel error number, positive. Small and `Copy`, so that it travels through events.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! names {
    ($($name:ident)+) => {
        impl Errno {
            $(pub const $name: Errno = Errno(libc::$name);)+
            /// `ECONNREFUSED` and the like; `None` for numbers that Fourfold never treats apart.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $(libc::$name => Some(stringify!($name)),)+ _ => None }
            }
        }
    };
}

names! {
    EADDRINUSE EADDRNOTAVAIL EAGAIN EACCES EBADF ECANCELED ECONNABORTED ECONNREFUSED ECONNRESET EHOSTUNREACH EINPROGRESS
    EINTR EINVAL EIO EMFILE ENETDOWN ENETUNREACH ENFILE ENOBUFS ENOENT ENOMEM ENOPROTOOPT ENOSYS ENOTCONN EPERM EPIPE EPROTO
    ETIME ETIMEDOUT EOPNOTSUPP EAFNOSUPPORT EEXIST
}

impl Errno {
    pub fn last() -> Self {
        Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// The machine, not a peer, is at fault: descriptors, memory, buffers.
    pub fn is_local_shortage(self) -> bool {
        matches!(self, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)
    }

    /// The peer has reset the connection; EPIPE: after its FIN.
    pub fn is_reset(self) -> bool {
        matches!(self, Errno::ECONNRESET | Errno::EPIPE)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        match self.name() {
            Some(name) => write!(f, "{text} ({name})"),
            None => write!(f, "{text} (errno {})", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        std::io::Error::from_raw_os_error(errno.0)
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// `-1` and `errno`, as libc has it, into a `Result`.
pub(crate) fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

pub(crate) fn check_len(result: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}
